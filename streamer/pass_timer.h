#pragma once

#include <tierstream/tiers/device.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>

namespace tierstream {

/// Times passes on the callers' stream. Two pairs of events in turn, so that a pass can begin while the one
/// before is still running on the device; but only after that one's `end` was called. Not thread-safe.
class PassTimer {
 public:
  explicit PassTimer(Device& device) {
    for (Pair& pair : pairs_) pair = {device.make_timed_event(), device.make_timed_event()};
  }

  void begin(Stream stream) {
    Pair& pair = pairs_[passes_ % pairs_.size()];
    resolve(pair);
    pair.begin->record(stream);
  }
  void end(Stream stream) {
    Pair& pair = pairs_[passes_++ % pairs_.size()];
    pair.end->record(stream);
    pair.unresolved = true;
  }

  std::uint64_t passes() const noexcept { return passes_; }
  /// Blocks until the last pass has ended on its stream.
  void resolve_all() {
    if (passes_ > 1) resolve(pairs_[passes_ % pairs_.size()]);
    if (passes_ > 0) resolve(pairs_[(passes_ - 1) % pairs_.size()]);
  }
  /// Of passes resolved.
  double last_seconds() const noexcept { return last_seconds_; }
  double total_seconds() const noexcept { return total_seconds_; }

 private:
  struct Pair {
    std::unique_ptr<Event> begin;
    std::unique_ptr<Event> end;
    bool unresolved = false;
  };
  void resolve(Pair& pair) {
    if (!pair.unresolved) return;
    pair.unresolved = false;
    last_seconds_ = std::chrono::duration<double>(pair.end->elapsed_since(*pair.begin)).count();
    total_seconds_ += last_seconds_;
  }

  std::array<Pair, 2> pairs_;
  std::uint64_t passes_ = 0;
  double last_seconds_ = 0;
  double total_seconds_ = 0;
};

}  // namespace tierstream
