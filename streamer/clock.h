#pragma once

#include <chrono>

namespace tierstream {

/// Where the streaming core gets the time from: the steady clock, or a simulation's own.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual std::chrono::nanoseconds now() const = 0;
};

class SteadyClock final : public Clock {
 public:
  std::chrono::nanoseconds now() const override {
    return std::chrono::steady_clock::now().time_since_epoch();
  }
};

}  // namespace tierstream
