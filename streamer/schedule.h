#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace tierstream {

/// The order in which layers are used, and the place of the next use: says which layers are needed soonest.
/// Pure state, no threads.
class Schedule {
 public:
  /// The default order 0..layers-1, wrapping.
  explicit Schedule(std::uint32_t layers);

  /// Starts a pass over `order` at its beginning. `wraps`: the same order follows once more.
  void begin_pass(std::span<const std::uint32_t> order, bool wraps);

  /// The caller asks for `layer`: the next use is its nearest occurrence from here on (wrapping). A layer
  /// that is not in the order changes nothing. Returns true when that moved the place.
  bool anchor(std::uint32_t layer);

  /// The caller has been given `layer`: goes past it, if the next use is its.
  void advance_past(std::uint32_t layer);

  /// Calls `visit` with the distinct layers used next, nearest first, until it returns false; those in
  /// `known` are left out (it may include the id behind the last layer).
  template <class Visit>
  void visit_upcoming(std::span<const std::uint32_t> known, Visit&& visit) {
    ++round_;
    for (const std::uint32_t layer : known) seen_[layer] = round_;
    const std::size_t start = next_position();
    const std::size_t steps = wraps_ ? order_.size() : order_.size() - start;
    for (std::size_t step = 0; step < steps; ++step) {
      const std::uint32_t layer = order_[(start + step) % order_.size()];
      if (std::exchange(seen_[layer], round_) == round_) continue;
      if (!visit(layer)) return;
    }
  }

 private:
  std::size_t next_position() const;

  std::vector<std::uint32_t> order_;
  std::size_t position_ = 0;  // of the next use; order_.size(): the end
  bool wraps_ = true;
  // Marks layers seen in one visit_upcoming, without clearing between calls.
  std::vector<std::uint64_t> seen_;
  std::uint64_t round_ = 0;
};

}  // namespace tierstream
