#pragma once

#include <chrono>
#include <cstddef>
#include <vector>

namespace tierstream {

/// Spreads intervals over as few rows as keep those in one row apart. They come in the order of their begin.
class TraceRows {
 public:
  std::size_t add(std::chrono::nanoseconds begin, std::chrono::nanoseconds end) {
    std::size_t row = 0;
    while (row < ends_.size() && begin < ends_[row]) ++row;
    if (row == ends_.size()) ends_.emplace_back();
    ends_[row] = end;
    return row;
  }
  std::size_t count() const noexcept { return ends_.size(); }

 private:
  std::vector<std::chrono::nanoseconds> ends_;
};

}  // namespace tierstream
