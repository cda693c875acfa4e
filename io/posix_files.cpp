#include "posix_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <tierstream/io/cached_pages.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>

#include "requirements.h"

namespace tierstream {
namespace {

/// Where the kernel cannot say (before 6.1, some file systems): a multiple of every drive's block.
constexpr std::uint32_t kUnknownDirectAlignment = 4096;
/// Where the kernel cannot say: more than any default.
constexpr std::uint64_t kUnknownReadaheadBytes = 8u << 20;

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

/// Of the device or network mount that has the file system. A partition's stands with its drive.
std::uint64_t readahead_bytes_of(std::uint64_t device) {
  const std::string number = fmt::format("{}:{}", major(device), minor(device));
  for (const std::string& path : {"/sys/class/bdi/" + number + "/read_ahead_kb",
                                  "/sys/dev/block/" + number + "/../queue/read_ahead_kb"}) {
    std::uint64_t kib = 0;
    if (std::ifstream(path) >> kib) return kib * 1024;
  }
  return kUnknownReadaheadBytes;
}

bool all_cached(int descriptor, std::uint64_t offset, std::uint64_t bytes) noexcept {
  const std::optional<CachedPages> pages = cached_pages(descriptor, offset, bytes);
  return pages && pages->all();
}

}  // namespace

bool PosixFile::find_cached(std::uint64_t offset, std::uint64_t bytes) noexcept {
  if (!direct || !cached_descriptor.is_open()) return false;
  // Pages that were read ahead carry marks: who reads a marked one starts readahead of the pages behind it,
  // whatever advice was given. The kernel lets that be where those are cached, too. Of them the read before
  // this one has seen all but the last.
  const std::uint64_t end = offset + bytes;
  const std::uint64_t readahead_end = std::min(end + readahead_bytes, info.bytes);
  const std::uint64_t known =
      known_begin <= end && end <= known_end ? std::min(known_end, readahead_end) : end;
  known_begin = known_end = 0;
  if (!all_cached(cached_descriptor.get(), offset, bytes) ||
      !all_cached(cached_descriptor.get(), known, readahead_end - known)) {
    return false;
  }
  known_begin = offset;
  known_end = readahead_end;
  return true;
}

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
    if (options_.cache == CacheUse::kAuto) open_cached(file);
  } else {
    note_buffered(path, refusal);
  }
  return files_.emplace_back(std::move(file));
}

bool PosixFiles::drop_direct(FileId id) {
  PosixFile& file = files_[static_cast<std::size_t>(id)];
  if (!file.direct) return false;
  note_buffered(file.path, "a read was refused as invalid");
  ::fcntl(file.descriptor.get(), F_SETFL, 0);
  file.direct = false;
  return true;
}

bool PosixFiles::all_direct() const noexcept {
  return !files_.empty() && std::ranges::all_of(files_, &PosixFile::direct);
}

bool PosixFiles::all_read_cached() const noexcept {
  return all_direct() &&
         std::ranges::all_of(files_, [](const PosixFile& file) { return file.cached_descriptor.is_open(); });
}

void PosixFiles::open_cached(PosixFile& file) {
  // By its descriptor: its name may have become another file's.
  const std::string self = fmt::format("/proc/self/fd/{}", file.descriptor.get());
  FileDescriptor cached(::open(self.c_str(), O_RDONLY | O_CLOEXEC));
  std::string refusal;
  if (!cached.is_open()) {
    refusal = fmt::format("open of {}: {}", self, last_error().message());
  } else if (!cached_pages(cached.get(), 0, 1)) {
    refusal = "the kernel tells only its owner, or who may write to it, what is cached";
  }
  if (!refusal.empty()) {
    fallbacks_.push_back({"cached reads", file.path + ": " + std::move(refusal)});
    return;
  }
  // A page that is dropped between question and read then brings in no more than the request.
  ::posix_fadvise(cached.get(), 0, 0, POSIX_FADV_RANDOM);
  file.cached_descriptor = std::move(cached);
  file.readahead_bytes = readahead_bytes_of(file.info.version.device);
}

void PosixFiles::note_buffered(const std::string& path, std::string reason) {
  Fallback fallback{"direct I/O", path + ": " + std::move(reason)};
  refuse_if_required(options_.cache == CacheUse::kDirect, fallback, {.file = path, .backend = backend_});
  // Who asks for buffered reads has them; that is no fallback.
  if (options_.cache != CacheUse::kBuffered) fallbacks_.push_back(std::move(fallback));
}

}  // namespace tierstream
