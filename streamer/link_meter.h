#pragma once

#include <tierstream/streamer/stats.h>

#include <atomic>
#include <chrono>
#include <cstdint>

#include "clock.h"

namespace tierstream {

/// How long a link has been at work, and what it has moved, since the beginning. Asks for the time only where
/// work begins or ends. Threads: one writes, any reads.
class LinkMeter {
 public:
  /// `clock` outlives it.
  explicit LinkMeter(const Clock& clock) : clock_(clock) {}

  void add_bytes(std::uint64_t bytes) noexcept {
    bytes_.store(bytes_.load(std::memory_order_relaxed) + bytes, std::memory_order_relaxed);
  }

  /// Whether anything is under way from now on.
  void set_busy(bool busy) {
    const std::int64_t state = state_.load(std::memory_order_relaxed);
    if (is_busy(state) == busy) return;
    const std::int64_t now = clock_.now().count();
    const std::int64_t busy_ns = (state >> 1) + (busy ? -now : now);
    state_.store(2 * busy_ns + (busy ? 1 : 0), std::memory_order_relaxed);
  }

  /// Up to now.
  LinkWork work() const {
    const std::int64_t state = state_.load(std::memory_order_relaxed);
    const std::int64_t busy_ns = (state >> 1) + (is_busy(state) ? clock_.now().count() : 0);
    return {bytes_.load(std::memory_order_relaxed),
            std::chrono::duration<double>(std::chrono::nanoseconds(busy_ns)).count()};
  }

 private:
  static bool is_busy(std::int64_t state) { return (state & 1) != 0; }

  const Clock& clock_;
  std::atomic<std::uint64_t> bytes_{0};
  /// One word, so that no reader sees half a change. Above the lowest bit: nanoseconds of the busy times that
  /// are over, less the begin of the one that goes on; the lowest bit: whether one does.
  std::atomic<std::int64_t> state_{0};
};

struct LinkMeters {
  explicit LinkMeters(const Clock& clock) : disk(clock), host_to_device(clock), cached(clock) {}
  LinksWork work() const { return {disk.work(), host_to_device.work(), cached.work().bytes}; }

  LinkMeter disk;
  LinkMeter host_to_device;
  LinkMeter cached;  ///< bytes only
};

}  // namespace tierstream
