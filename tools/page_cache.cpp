#include "tools/page_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <tierstream/io/cached_pages.h>
#include <tierstream/io/error.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <optional>
#include <vector>

namespace tierstream {
namespace {

[[noreturn]] void fail(const std::string& file, const char* call) {
  throw Error(Errc::kReadFailed, fmt::format("{} failed", call), {.file = file},
              {errno, std::generic_category()});
}

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

  CachedPages pages() const {
    if (const std::optional<CachedPages> pages = tierstream::cached_pages(descriptor_, 0, bytes_))
      return *pages;
    throw Error(Errc::kReadFailed, "the kernel does not tell which pages are cached", {.file = path_});
  }

 private:
  std::string path_;
  int descriptor_;
  std::size_t bytes_ = 0;
};

}  // namespace

void check_cold(const std::string& file) {
  const std::uint64_t cached = OpenFile(file).pages().cached;
  if (cached == 0) return;
  throw Error(Errc::kInternal, fmt::format("{} pages are in the page cache", cached), {.file = file});
}

void check_warm(const std::string& file) {
  const CachedPages pages = OpenFile(file).pages();
  if (pages.all()) return;
  throw Error(Errc::kInternal,
              fmt::format("only {} of {} pages are in the page cache", pages.cached, pages.total),
              {.file = file});
}

bool try_make_cold(const std::string& file) {
  const OpenFile open(file);
  // Dirty pages cannot be dropped.
  if (::fdatasync(open.descriptor()) != 0) fail(file, "fdatasync");
  if ((errno = ::posix_fadvise(open.descriptor(), 0, 0, POSIX_FADV_DONTNEED)) != 0) {
    fail(file, "posix_fadvise");
  }
  return open.pages().cached == 0;
}

bool try_make_warm(const std::string& file) {
  constexpr int kTries = 10;
  const OpenFile open(file);
  std::vector<std::byte> buffer(1u << 20);
  for (int i = 0; i < kTries && !open.pages().all(); ++i) {
    ::lseek(open.descriptor(), 0, SEEK_SET);
    ssize_t count = 0;
    while ((count = ::read(open.descriptor(), buffer.data(), buffer.size())) > 0) {
    }
    if (count < 0) fail(file, "read");
  }
  return open.pages().all();
}

void make_cold(const std::string& file) {
  if (!try_make_cold(file)) check_cold(file);
}

void make_warm(const std::string& file) {
  if (!try_make_warm(file)) check_warm(file);
}

}  // namespace tierstream
