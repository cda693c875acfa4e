#pragma once

#include <cstddef>
#include <span>

namespace tierstream {

/// Pages of host memory that belong to this process alone: aligned to 2 MiB, in huge pages where the system
/// gives them, all touched (in parallel) by the constructor, so that registering and using them is fast.
/// Throws Error kOutOfMemory.
class HostMemory {
 public:
  HostMemory() = default;
  explicit HostMemory(std::size_t bytes);
  /// Owns again what `release` of a HostMemory of `bytes` gave up.
  static HostMemory adopt(std::byte* data, std::size_t bytes) noexcept;
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  std::span<std::byte> span() const noexcept { return {data_, bytes_}; }
  /// Gives the pages up without freeing them: someone may still write to them.
  std::byte* release() noexcept;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace tierstream
