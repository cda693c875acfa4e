#include "tools/page_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <tierstream/io/error.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <vector>

namespace tierstream {
namespace {

[[noreturn]] void fail(const std::string& file, const char* call) {
  throw Error(Errc::kReadFailed, fmt::format("{} failed", call), {.file = file},
              {errno, std::generic_category()});
}

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

/// A file open for reading through the page cache.
class OpenFile {
 public:
  explicit OpenFile(const std::string& path)
      : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail(path_, "open");
    const off_t end = ::lseek(descriptor_, 0, SEEK_END);
    if (end < 0) fail(path_, "lseek");
    bytes_ = static_cast<std::size_t>(end);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { ::close(descriptor_); }

  int descriptor() const noexcept { return descriptor_; }
  std::size_t bytes() const noexcept { return bytes_; }
  std::uint64_t pages() const { return (bytes_ + page_bytes() - 1) / page_bytes(); }

  std::uint64_t cached_pages() const {
    CacheRange range{.offset = 0, .bytes = bytes_};
    CacheState state{};
    if (::syscall(kCachestatCall, descriptor_, &range, &state, 0) == 0) return state.cached;
    if (errno != ENOSYS) fail(path_, "cachestat");
    return cached_pages_by_mincore();
  }

 private:
  /// For Linux before 6.5. Misses pages that are there but not up to date as a whole.
  std::uint64_t cached_pages_by_mincore() const {
    if (bytes_ == 0) return 0;
    // A mapping that is not touched brings no page in.
    void* const mapping = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, descriptor_, 0);
    if (mapping == MAP_FAILED) fail(path_, "mmap");
    std::vector<unsigned char> residency(pages());
    const int result = ::mincore(mapping, bytes_, residency.data());
    ::munmap(mapping, bytes_);
    if (result != 0) fail(path_, "mincore");
    return static_cast<std::uint64_t>(
        std::ranges::count_if(residency, [](unsigned char page) { return (page & 1) != 0; }));
  }

  static std::size_t page_bytes() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

  std::string path_;
  int descriptor_;
  std::size_t bytes_ = 0;
};

}  // namespace

std::uint64_t cached_pages(const std::string& file) { return OpenFile(file).cached_pages(); }

void check_cold(const std::string& file) {
  const std::uint64_t cached = cached_pages(file);
  if (cached == 0) return;
  throw Error(Errc::kInternal, fmt::format("{} pages are in the page cache", cached), {.file = file});
}

void check_warm(const std::string& file) {
  const OpenFile open(file);
  const std::uint64_t cached = open.cached_pages();
  if (cached == open.pages()) return;
  throw Error(Errc::kInternal, fmt::format("only {} of {} pages are in the page cache", cached, open.pages()),
              {.file = file});
}

bool try_make_cold(const std::string& file) {
  const OpenFile open(file);
  // Dirty pages cannot be dropped.
  if (::fdatasync(open.descriptor()) != 0) fail(file, "fdatasync");
  if ((errno = ::posix_fadvise(open.descriptor(), 0, 0, POSIX_FADV_DONTNEED)) != 0) {
    fail(file, "posix_fadvise");
  }
  return open.cached_pages() == 0;
}

bool try_make_warm(const std::string& file) {
  constexpr int kTries = 10;
  const OpenFile open(file);
  std::vector<std::byte> buffer(1u << 20);
  for (int i = 0; i < kTries && open.cached_pages() != open.pages(); ++i) {
    ::lseek(open.descriptor(), 0, SEEK_SET);
    ssize_t count = 0;
    while ((count = ::read(open.descriptor(), buffer.data(), buffer.size())) > 0) {
    }
    if (count < 0) fail(file, "read");
  }
  return open.cached_pages() == open.pages();
}

void make_cold(const std::string& file) {
  if (!try_make_cold(file)) check_cold(file);
}

void make_warm(const std::string& file) {
  if (!try_make_warm(file)) check_warm(file);
}

}  // namespace tierstream
