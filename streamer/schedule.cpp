#include "schedule.h"

#include <algorithm>
#include <numeric>

namespace tierstream {

Schedule::Schedule(std::uint32_t layers) : order_(layers), seen_(layers + 1, 0) {
  std::iota(order_.begin(), order_.end(), 0u);
}

void Schedule::begin_pass(std::span<const std::uint32_t> order, bool wraps) {
  order_.assign(order.begin(), order.end());
  position_ = 0;
  wraps_ = wraps;
}

std::size_t Schedule::next_position() const { return position_ == order_.size() && wraps_ ? 0 : position_; }

bool Schedule::anchor(std::uint32_t layer) {
  const std::size_t start = next_position();
  for (std::size_t step = 0; step < order_.size(); ++step) {
    const std::size_t position = (start + step) % order_.size();
    if (order_[position] != layer) continue;
    position_ = position;
    return step != 0;
  }
  return false;
}

void Schedule::advance_past(std::uint32_t layer) {
  const std::size_t position = next_position();
  if (position < order_.size() && order_[position] == layer) position_ = position + 1;
}

}  // namespace tierstream
