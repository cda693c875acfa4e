#pragma once

#include <cstdint>

namespace tierstream {

/// Bytes by the tier they came from.
struct TierBytes {
  std::uint64_t disk = 0;  ///< read from storage, with what alignment and kept chunks take of neighbours
  /// Of pages that the page-cache tier keeps (its budget), used where they lie or copied from there; and read
  /// out of pages that happened to lie in the kernel's cache, which LinksWork::cached_bytes counts alone.
  std::uint64_t page_cache = 0;
  std::uint64_t pinned = 0;  ///< copied from host memory that holds them for good
  std::uint64_t gpu = 0;     ///< already in a slot

  std::uint64_t total() const { return disk + page_cache + pinned + gpu; }
  TierBytes& operator+=(const TierBytes& other) {
    disk += other.disk;
    page_cache += other.page_cache;
    pinned += other.pinned;
    gpu += other.gpu;
    return *this;
  }
};

/// What a caller waited for: the earliest unfinished stage of the layer's last bytes.
enum class StallCause : std::uint8_t { kDisk, kRing, kCopy, kSlot };

constexpr const char* name_of(StallCause cause) {
  switch (cause) {
    case StallCause::kDisk:
      return "disk";
    case StallCause::kRing:
      return "ring";
    case StallCause::kCopy:
      return "copy";
    case StallCause::kSlot:
      break;
  }
  return "slot";
}

/// Seconds that a caller waited in `acquire`, by cause.
struct StallSeconds {
  double disk = 0;  ///< reads under way, or storage taking no more of them
  double ring = 0;  ///< no free block, while neither disk nor copies alone hold them all
  double copy = 0;  ///< copies to the device under way
  double slot = 0;  ///< every slot in use, or waiting for the work that uses it
  double total() const { return disk + ring + copy + slot; }
};

/// What one link did in a stretch of time, whatever for.
struct LinkWork {
  std::uint64_t bytes = 0;  ///< moved
  double busy_seconds = 0;  ///< with something under way, as the staging thread saw it

  LinkWork operator+(const LinkWork& other) const {
    return {bytes + other.bytes, busy_seconds + other.busy_seconds};
  }
  LinkWork operator-(const LinkWork& other) const {
    return {bytes - other.bytes, busy_seconds - other.busy_seconds};
  }
};

/// Of disk and copies: what they did between a pass's begin and its end, on the caller's thread.
struct LinksWork {
  /// Reads, alignment included. Those for the page-cache tier make it busy while a layer waits for them.
  LinkWork disk;
  LinkWork host_to_device;  ///< copies to the device: from the ring, from the page-cache tier, from memory
  /// Read, too, but known to have lain in the page cache; the time that took counts as the disk's.
  std::uint64_t cached_bytes = 0;

  LinksWork operator+(const LinksWork& other) const {
    return {disk + other.disk, host_to_device + other.host_to_device, cached_bytes + other.cached_bytes};
  }
  LinksWork operator-(const LinksWork& other) const {
    return {disk - other.disk, host_to_device - other.host_to_device, cached_bytes - other.cached_bytes};
  }
};

struct PassStats {
  std::uint64_t layers = 0;        ///< leases given
  double seconds = 0;              ///< from the pass's begin to its end on the caller's stream
  TierBytes bytes;                 ///< of the layers used in this pass, whenever they were moved
  std::uint64_t unused_bytes = 0;  ///< moved for layers that were passed over and reclaimed
  StallSeconds stall;
  LinksWork links;
};

struct StreamerStats {
  std::uint64_t passes = 0;  ///< ended
  PassStats last_pass;
  PassStats total;  ///< all passes and single acquires; seconds of passes only
  struct Peak {
    std::uint64_t gpu = 0;
    std::uint64_t pinned = 0;
    std::uint64_t page_cache = 0;
  } peak_bytes;  ///< held at most at one time, per tier
};

}  // namespace tierstream
