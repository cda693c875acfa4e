#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
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

  /// Appends to `upcoming` the distinct layers used next, nearest first, until it holds `limit`; layers in it
  /// already are not repeated (these may include the id behind the last layer). Does not allocate when
  /// `upcoming` has room for `limit`.
  void append_upcoming(std::vector<std::uint32_t>& upcoming, std::size_t limit);

 private:
  std::size_t next_position() const;

  std::vector<std::uint32_t> order_;
  std::size_t position_ = 0;  // of the next use; order_.size(): the end
  bool wraps_ = true;
  // Marks layers seen in one append_upcoming, without clearing between calls.
  std::vector<std::uint64_t> seen_;
  std::uint64_t round_ = 0;
};

}  // namespace tierstream
