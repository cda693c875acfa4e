#include "posix_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <cerrno>

#include "requirements.h"

namespace tierstream {
namespace {

/// Where the kernel cannot say (before 6.1, some file systems): a multiple of every drive's block.
constexpr std::uint32_t kUnknownDirectAlignment = 4096;

std::error_code last_error() { return {errno, std::generic_category()}; }

[[noreturn]] void fail_to_open(std::error_code cause, const ErrorPlace& place) {
  if (cause == std::errc::no_such_device_or_address) {
    throw Error(Errc::kNotARegularFile, "is a socket or a device, not a regular file", place, cause);
  }
  std::string message = "cannot open";
  if (cause == std::errc::too_many_files_open) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    message += fmt::format(": RLIMIT_NOFILE allows {} open files", limit.rlim_cur);
  }
  throw Error(Errc::kOpenFailed, message, place, cause);
}

std::string kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "something else";
}

}  // namespace

const PosixFile& PosixFiles::open(const std::string& path) {
  const ErrorPlace place{.file = path, .backend = backend_};
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  PosixFile file{.path = path, .descriptor = FileDescriptor{}, .info = {}};
  std::string refusal;
  if (options_.cache != CacheUse::kBuffered) {
    file.descriptor = FileDescriptor(::open(path.c_str(), kFlags | O_DIRECT));
    file.direct = file.descriptor.is_open();
    if (!file.direct && errno != EINVAL) fail_to_open(last_error(), place);
    if (!file.direct) refusal = fmt::format("open(O_DIRECT): {}", last_error().message());
  } else {
    refusal = "the options ask for buffered reads";
  }
  if (!file.descriptor.is_open()) file.descriptor = FileDescriptor(::open(path.c_str(), kFlags));
  if (!file.descriptor.is_open()) fail_to_open(last_error(), place);

  struct statx status {};
  if (::statx(file.descriptor.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_DIOALIGN, &status) != 0) {
    throw Error(Errc::kOpenFailed, "statx failed", place, last_error());
  }
  if (!S_ISREG(status.stx_mode)) {
    throw Error(Errc::kNotARegularFile, "is " + kind_of(status.stx_mode) + ", not a regular file", place);
  }
  const bool alignment_known = (status.stx_mask & STATX_DIOALIGN) != 0;
  if (file.direct && alignment_known && status.stx_dio_offset_align == 0) {
    file.direct = false;
    refusal = "statx says that this file has no direct I/O";
  }
  // Without this, io_uring would answer EAGAIN to a read that has to wait.
  if (::fcntl(file.descriptor.get(), F_SETFL, file.direct ? O_DIRECT : 0) != 0) {
    throw Error(Errc::kOpenFailed, "fcntl(F_SETFL) failed", place, last_error());
  }

  file.info.bytes = status.stx_size;
  file.info.is_local_file = true;
  file.info.version = {.device = makedev(status.stx_dev_major, status.stx_dev_minor),
                       .inode = status.stx_ino,
                       .modified_ns = status.stx_mtime.tv_sec * 1'000'000'000 + status.stx_mtime.tv_nsec};
  if (file.direct) {
    file.info.offset_alignment = alignment_known ? status.stx_dio_offset_align : kUnknownDirectAlignment;
    file.info.memory_alignment = alignment_known ? status.stx_dio_mem_align : kUnknownDirectAlignment;
  } else {
    note_buffered(path, refusal);
  }
  return files_.emplace_back(std::move(file));
}

bool PosixFiles::drop_direct(FileId id) {
  PosixFile& file = files_[static_cast<std::size_t>(id)];
  if (!file.direct) return false;
  note_buffered(file.path, "the first read was refused as invalid");
  ::fcntl(file.descriptor.get(), F_SETFL, 0);
  file.direct = false;
  return true;
}

bool PosixFiles::all_direct() const noexcept {
  return !files_.empty() && std::ranges::all_of(files_, &PosixFile::direct);
}

void PosixFiles::note_buffered(const std::string& path, std::string reason) {
  Fallback fallback{"direct I/O", path + ": " + std::move(reason)};
  refuse_if_required(options_.cache == CacheUse::kDirect, fallback, {.file = path, .backend = backend_});
  // Who asks for buffered reads has them; that is no fallback.
  if (options_.cache != CacheUse::kBuffered) fallbacks_.push_back(std::move(fallback));
}

}  // namespace tierstream
