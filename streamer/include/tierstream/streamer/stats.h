#pragma once

#include <cstdint>

namespace tierstream {

/// Bytes by the tier they came from.
struct TierBytes {
  std::uint64_t disk = 0;        ///< read from storage, alignment included
  std::uint64_t page_cache = 0;  ///< used where the program keeps file pages
  std::uint64_t pinned = 0;      ///< copied from host memory that holds them for good
  std::uint64_t gpu = 0;         ///< already in a slot

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

struct PassStats {
  std::uint64_t layers = 0;        ///< leases given
  double seconds = 0;              ///< from the pass's begin to its end on the caller's stream
  TierBytes bytes;                 ///< of the layers used in this pass, whenever they were moved
  std::uint64_t unused_bytes = 0;  ///< moved for layers that were passed over and reclaimed
  StallSeconds stall;
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
