#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <tierstream/io/cached_pages.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "page_bytes.h"

namespace tierstream {
namespace {

// cachestat(2), Linux 6.5: the kernel headers of Debian 12 do not know it.
constexpr long kCachestatCall = 451;
struct CacheRange {
  std::uint64_t offset;
  std::uint64_t bytes;
};
struct CacheState {
  std::uint64_t cached;
  std::uint64_t dirty;
  std::uint64_t writeback;
  std::uint64_t evicted;
  std::uint64_t recently_evicted;
};

/// Of pages, in a file.
struct PageRange {
  std::uint64_t first;
  std::uint64_t count;
};

std::optional<std::uint64_t> count_by_cachestat(int descriptor, PageRange pages) noexcept {
  CacheRange range{.offset = pages.first * page_bytes(), .bytes = pages.count * page_bytes()};
  CacheState state{};
  if (::syscall(kCachestatCall, descriptor, &range, &state, 0) != 0) return std::nullopt;
  // An overlay's files have no pages: those of the file beneath are used, and cachestat does not look there.
  struct statfs file_system {};
  if (state.cached == 0 &&
      (::fstatfs(descriptor, &file_system) != 0 || file_system.f_type == OVERLAYFS_SUPER_MAGIC)) {
    return std::nullopt;
  }
  return state.cached;
}

constexpr std::size_t kMincorePages = 4096;  ///< at once

std::optional<std::uint64_t> count_some_by_mincore(int descriptor, PageRange pages) noexcept {
  const std::uint64_t bytes = pages.count * page_bytes();
  // A mapping that is not touched brings no page in.
  void* const mapping = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor,
                               static_cast<off_t>(pages.first * page_bytes()));
  if (mapping == MAP_FAILED) return std::nullopt;
  std::array<unsigned char, kMincorePages> residency;
  const int result = ::mincore(mapping, bytes, residency.data());
  ::munmap(mapping, bytes);
  if (result != 0) return std::nullopt;
  return std::count_if(residency.begin(), residency.begin() + static_cast<std::ptrdiff_t>(pages.count),
                       [](unsigned char page) { return (page & 1) != 0; });
}

/// Who may not know is told that every page is resident, even one that the file does not have.
bool mincore_tells_the_truth(int descriptor) noexcept {
  constexpr std::uint64_t kLargestFolio = 1u << 26;  // none reaches farther past the end of the file
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) return false;
  const std::uint64_t beyond = static_cast<std::uint64_t>(status.st_size) + kLargestFolio;
  return count_some_by_mincore(descriptor, {.first = beyond / page_bytes(), .count = 1}) == 0u;
}

std::optional<std::uint64_t> count_by_mincore(int descriptor, PageRange pages) noexcept {
  if (!mincore_tells_the_truth(descriptor)) return std::nullopt;
  std::uint64_t cached = 0;
  for (std::uint64_t done = 0; done < pages.count; done += kMincorePages) {
    const auto some = count_some_by_mincore(
        descriptor,
        {.first = pages.first + done, .count = std::min<std::uint64_t>(kMincorePages, pages.count - done)});
    if (!some) return std::nullopt;
    cached += *some;
  }
  return cached;
}

}  // namespace

std::optional<CachedPages> cached_pages(int descriptor, std::uint64_t offset, std::uint64_t bytes) noexcept {
  if (bytes == 0) return CachedPages{};
  const std::uint64_t first = offset / page_bytes();
  const PageRange pages{.first = first, .count = (offset + bytes - 1) / page_bytes() + 1 - first};
  std::optional<std::uint64_t> cached = count_by_cachestat(descriptor, pages);
  if (!cached) cached = count_by_mincore(descriptor, pages);
  if (!cached) return std::nullopt;
  return CachedPages{.cached = *cached, .total = pages.count};
}

}  // namespace tierstream
