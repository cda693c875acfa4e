#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>

namespace tierstream {

/// Memory that direct I/O can read to, filled with a byte that shows what was never written.
class AlignedMemory {
 public:
  static constexpr std::align_val_t kAlignment{4096};
  static constexpr std::byte kPoison{0xa5};

  explicit AlignedMemory(std::size_t bytes)
      : bytes_(bytes), memory_(static_cast<std::byte*>(::operator new(bytes, kAlignment))) {
    poison();
  }

  void poison() { std::memset(memory_.get(), static_cast<int>(kPoison), bytes_); }
  std::span<std::byte> span() const { return {memory_.get(), bytes_}; }
  std::span<std::byte> subspan(std::size_t offset, std::size_t bytes) const {
    return span().subspan(offset, bytes);
  }

 private:
  struct Delete {
    void operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::size_t bytes_;
  std::unique_ptr<std::byte, Delete> memory_;
};

}  // namespace tierstream
