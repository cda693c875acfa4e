#include <fmt/format.h>
#include <sys/mman.h>
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/host_memory.h>

#include <cerrno>
#include <cstdint>
#include <utility>

namespace tierstream {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kHugePageBytes = 2u << 20;
/// Less than this is not worth another task.
constexpr std::size_t kTouchGrainBytes = 4 * kHugePageBytes;

constexpr std::size_t round_up(std::size_t bytes, std::size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

Error out_of_memory(std::size_t bytes, int reason) {
  return {Errc::kOutOfMemory,
          fmt::format("host memory of {}", format_bytes(bytes)),
          {},
          std::error_code(reason, std::generic_category())};
}

std::byte* map_aligned(std::size_t bytes) {
  void* const mapping =
      ::mmap(nullptr, bytes + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw out_of_memory(bytes, errno);
  auto* const begin = static_cast<std::byte*>(mapping);
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  const std::size_t before = round_up(address, kHugePageBytes) - address;
  const std::size_t after = kHugePageBytes - before;
  if (before > 0) ::munmap(begin, before);
  ::munmap(begin + before + bytes, after);
  return begin + before;
}

/// The first touch of a page makes the kernel find and clear it: 5 GB/s by one thread, so several share it.
void touch(std::byte* data, std::size_t bytes) {
  const tbb::blocked_range<std::size_t> range(0, bytes, kTouchGrainBytes);
  tbb::parallel_for(range, [data](const tbb::blocked_range<std::size_t>& part) {
    for (std::size_t at = round_up(part.begin(), kPageBytes); at < part.end(); at += kPageBytes) {
      *static_cast<volatile std::byte*>(data + at) = std::byte{0};
    }
  });
}

}  // namespace

HostMemory::HostMemory(std::size_t bytes, FirstTouch first_touch)
    : HostMemory() {  // whole from here on: a throw below unmaps
  if (bytes == 0) return;
  if (bytes > PTRDIFF_MAX) throw out_of_memory(bytes, ENOMEM);  // what is added below must not wrap
  data_ = map_aligned(round_up(bytes, kPageBytes));
  bytes_ = bytes;
  // Only whole huge pages, so that a small region costs no more than its own pages. A refusal costs speed
  // alone. Children of a fork keep the memory: a module's weights may lie in it.
  ::madvise(data_, bytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
  if (first_touch == FirstTouch::kNow) touch(data_, bytes);
}

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  HostMemory taken(std::move(other));
  std::swap(data_, taken.data_);
  std::swap(bytes_, taken.bytes_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) ::munmap(data_, round_up(bytes_, kPageBytes));
}

HostMemory HostMemory::adopt(std::byte* data, std::size_t bytes) noexcept {
  HostMemory memory;
  memory.data_ = data;
  memory.bytes_ = bytes;
  return memory;
}

void HostMemory::populate(std::span<std::byte> memory) noexcept {
  ::madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE);
}

std::byte* HostMemory::release() noexcept {
  bytes_ = 0;
  return std::exchange(data_, nullptr);
}

}  // namespace tierstream
