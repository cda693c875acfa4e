#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

namespace tierstream {

/// How long to leave many reads of cached pages alone, so that a good part of them ends meanwhile
/// and the next reads are there before the last one has begun. Such reads take 20 to 200 us each, whoever
/// copies: found out by the reads of the naps before. Pure; threads: one at a time.
class CachedReadNap {
 public:
  /// Of fewer, all might end in one nap.
  static constexpr std::size_t kFewestReads = 8;
  static constexpr std::chrono::nanoseconds kShortest = std::chrono::microseconds(20);
  /// So long a nap may hold up a read that has ended, where one must go to the disk after all.
  static constexpr std::chrono::nanoseconds kLongest = std::chrono::milliseconds(1);

  std::chrono::nanoseconds length() const noexcept { return length_; }

  /// After a whole nap, in which `ended` of `under_way` reads ended.
  void learn(std::size_t ended, std::size_t under_way) noexcept {
    if (4 * ended < under_way) {
      length_ += length_ / 8;
    } else if (2 * ended > under_way) {
      length_ -= length_ / 4;
    }
    length_ = std::clamp(length_, kShortest, kLongest);
  }

 private:
  std::chrono::nanoseconds length_ = std::chrono::microseconds(100);
};

}  // namespace tierstream
