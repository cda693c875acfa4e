#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tierstream {

class Device;

/// Bytes that each tier may hold. Never exceeded.
struct Budget {
  std::uint64_t gpu = 0;         ///< slots, resident tensors, tensors outside the layers
  std::uint64_t pinned = 0;      ///< the ring, and what stays in host memory without being a file's page
  std::uint64_t page_cache = 0;  ///< file pages that the program keeps

  bool operator==(const Budget&) const = default;

  /// Parses e.g. "gpu=6GiB,pinned=512MiB,page_cache=0"; a tier left out is 0.
  /// Throws Error kInvalidBudget for an unknown tier or unit, a tier named twice, or an overflow.
  static Budget parse(std::string_view text);

  /// What this machine has to give now, less a reserve for the rest of the program: a quarter of the device's
  /// memory room or 1 GiB, whichever is less, and the same of the host's. Pinned gets what a ring can use
  /// (256 MiB), gpu the device, page_cache the rest of the host; where the device is the host, they halve it.
  /// Errors: those of Device::memory_room.
  static Budget detect(Device& device);
};

/// Parses "4096", "64KiB", "1.5GiB", "2GB" (units B, KiB, MiB, GiB, TiB, KB, MB, GB, TB; case does not
/// matter). Throws Error kInvalidBudget.
std::uint64_t parse_bytes(std::string_view text);

/// For people: "1.50 GiB", "64.0 MiB", "512 B".
std::string format_bytes(std::uint64_t bytes);
/// MiB that hold `bytes`: rounded up, so that they suffice where they are written into a budget.
std::uint64_t whole_mib(std::uint64_t bytes) noexcept;
/// For people, what a budget has to hold at least: "31MiB (32505000 bytes)". The first can be written into a
/// budget as it stands. Below one MiB: "512 bytes".
std::string format_least_bytes(std::uint64_t bytes);

/// For what is compared with that: "20.0 MiB (20971520 bytes)".
std::string format_exactly(std::uint64_t bytes);

class TierBudget;

/// Bytes of a tier's budget, held; the destructor gives them back.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  friend class TierBudget;
  Reservation(TierBudget* tier, std::uint64_t bytes) : tier_(tier), bytes_(bytes) {}

  TierBudget* tier_ = nullptr;
  std::uint64_t bytes_ = 0;
};

/// One tier's budget: bytes are held by Reservations and never counted by hand, so the sum cannot exceed the
/// limit that stood when they were made. Outlives its reservations. Threads: any.
class TierBudget {
 public:
  /// `name` is what messages call the tier: "gpu", "pinned", "page_cache".
  TierBudget(std::string name, std::uint64_t limit_bytes);
  TierBudget(const TierBudget&) = delete;
  TierBudget& operator=(const TierBudget&) = delete;

  std::optional<Reservation> try_reserve(std::uint64_t bytes);
  /// Throws Error kBudgetTooSmall: `purpose`, what it needs, and what is left.
  Reservation reserve(std::uint64_t bytes, std::string_view purpose);

  /// A limit below what is held takes nothing away: it lets nobody reserve more until enough was given back.
  void set_limit(std::uint64_t bytes) noexcept { limit_bytes_.store(bytes, std::memory_order_relaxed); }
  std::uint64_t limit_bytes() const noexcept { return limit_bytes_.load(std::memory_order_relaxed); }
  std::uint64_t used_bytes() const noexcept { return used_bytes_.load(std::memory_order_relaxed); }
  std::uint64_t peak_bytes() const noexcept { return peak_bytes_.load(std::memory_order_relaxed); }

 private:
  friend class Reservation;
  void give_back(std::uint64_t bytes) noexcept;

  std::string name_;
  std::atomic<std::uint64_t> limit_bytes_;
  std::atomic<std::uint64_t> used_bytes_ = 0;
  std::atomic<std::uint64_t> peak_bytes_ = 0;
};

}  // namespace tierstream
