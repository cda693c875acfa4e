#include "tools/uncached_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace tierstream {
namespace {

constexpr std::uint64_t kWriteBackBytes = 8u << 20;

}  // namespace

UncachedFile::UncachedFile(std::filesystem::path path, std::uint64_t bytes)
    : path_(std::move(path)),
      descriptor_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail("create");
  if (bytes > 0 && ::fallocate(descriptor_, 0, 0, static_cast<off_t>(bytes)) != 0 && errno != EOPNOTSUPP) {
    const int reason = errno;
    ::close(std::exchange(descriptor_, -1));
    errno = reason;
    fail("allocate");
  }
}

UncachedFile::~UncachedFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void UncachedFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("write");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    written_bytes_ += static_cast<std::uint64_t>(count);
  }
  if (written_bytes_ - started_bytes_ >= kWriteBackBytes) write_back();
}

void UncachedFile::write_back() {
  // The new bytes start on their way before the older ones are waited for, so that the disk is never idle.
  // What goes wrong here shows at `finish`.
  ::sync_file_range(descriptor_, static_cast<off_t>(started_bytes_),
                    static_cast<off_t>(written_bytes_ - started_bytes_), SYNC_FILE_RANGE_WRITE);
  const auto older_begin = static_cast<off_t>(dropped_bytes_);
  const auto older_bytes = static_cast<off_t>(started_bytes_ - dropped_bytes_);
  if (older_bytes > 0) {
    ::sync_file_range(descriptor_, older_begin, older_bytes,
                      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    ::posix_fadvise(descriptor_, older_begin, older_bytes, POSIX_FADV_DONTNEED);
  }
  dropped_bytes_ = std::exchange(started_bytes_, written_bytes_);
}

void UncachedFile::finish() {
  if (::fdatasync(descriptor_) != 0) fail("write back");
  ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("close");
}

void UncachedFile::fail(const char* action) const {
  throw Error(Errc::kWriteFailed, fmt::format("cannot {} the file", action), {.file = path_.string()},
              {errno, std::system_category()});
}

}  // namespace tierstream
