#pragma once

#include <tierstream/streamer/trace.h>

#include <chrono>

#include "clock.h"

namespace tierstream {

/// A streamer's side of its trace. By default there is none, and nothing is done but to find that out.
class TraceRecorder {
 public:
  TraceRecorder() = default;
  /// Both outlive it; `trace` may be null.
  TraceRecorder(Trace* trace, const Clock& clock) : trace_(trace), clock_(&clock) {}

  explicit operator bool() const noexcept { return trace_ != nullptr; }
  /// The time, for an event that begins or ends; without a trace zero, and the clock is not asked.
  std::chrono::nanoseconds now() const {
    return trace_ != nullptr ? clock_->now() : std::chrono::nanoseconds{0};
  }
  void record(const TraceEvent& event) const noexcept {
    if (trace_ != nullptr) trace_->record(event);
  }

 private:
  Trace* trace_ = nullptr;
  const Clock* clock_ = nullptr;
};

}  // namespace tierstream
