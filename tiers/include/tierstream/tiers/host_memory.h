#pragma once

#include <cstddef>
#include <span>

namespace tierstream {

/// Pages of host memory that belong to this process alone: aligned to 2 MiB, in huge pages where the system
/// gives them. Zeroed.
class HostMemory {
 public:
  enum class FirstTouch {
    kNow,    ///< by several threads at once, so that registering and using the pages is fast
    kLater,  ///< by `populate`, or else by whoever writes to them first
  };

  HostMemory() = default;
  /// Throws Error kOutOfMemory.
  explicit HostMemory(std::size_t bytes, FirstTouch first_touch = FirstTouch::kNow);
  /// Owns again what `release` of a HostMemory of `bytes` gave up.
  static HostMemory adopt(std::byte* data, std::size_t bytes) noexcept;
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  /// Gives `memory` its pages without changing what lies there. A refusal (kernels before 5.14) costs speed
  /// alone.
  static void populate(std::span<std::byte> memory) noexcept;

  std::span<std::byte> span() const noexcept { return {data_, bytes_}; }
  /// Gives the pages up without freeing them: someone may still write to them.
  std::byte* release() noexcept;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace tierstream
