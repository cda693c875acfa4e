#pragma once

#include <tierstream/io/storage_backend.h>
#include <tierstream/io/storage_registry.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tierstream {

/// Owns a file descriptor; closes it.
class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor = -1) noexcept : descriptor_(descriptor) {}
  ~FileDescriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  FileDescriptor(FileDescriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    FileDescriptor taken(std::move(other));
    std::swap(descriptor_, taken.descriptor_);
    return *this;
  }

  int get() const noexcept { return descriptor_; }
  bool is_open() const noexcept { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

/// A regular file open for reading, by direct I/O where that was wished for and allowed: the rules that the
/// posix and the io_uring backend share.
struct PosixFile {
  std::string path;
  FileDescriptor descriptor;
  FileInfo info;
  bool direct = false;
  /// Reads the same file through the page cache. Open with CacheUse::kAuto, where the kernel tells what lies
  /// there.
  FileDescriptor cached_descriptor{};
  std::uint64_t readahead_bytes = 0;  ///< no farther than this the kernel reads ahead of a buffered read
  std::uint64_t known_begin = 0;      ///< from here to `known_end` the last cached read found all cached
  std::uint64_t known_end = 0;

  /// Whether a read of `bytes` bytes at `offset`, within the file, by `cached_descriptor` would neither touch
  /// the disk nor bring a page in.
  bool find_cached(std::uint64_t offset, std::uint64_t bytes) noexcept;
};

/// The files that a backend has open, by FileId, and why some are not read directly.
/// Threads: one at a time; `operator[]` from any while no file is being opened, to use the descriptors.
class PosixFiles {
 public:
  /// `backend` is the name that errors show.
  PosixFiles(const StorageOptions& options, std::string backend)
      : options_(options), backend_(std::move(backend)) {}

  /// Never blocks, whatever `path` is. Throws Error kOpenFailed, kNotARegularFile or kRequirementNotMet.
  const PosixFile& open(const std::string& path);
  /// Closes the file opened last, for a backend that cannot take it; why it was not read directly stays
  /// noted.
  void forget_last() noexcept { files_.pop_back(); }

  /// Goes on without direct I/O after a read was refused as invalid. False: it was not in use. Reads under
  /// way are not disturbed. Throws Error kRequirementNotMet when direct I/O is required.
  bool drop_direct(FileId file);

  bool is_cached(FileId file, std::uint64_t offset, std::uint64_t bytes) noexcept {
    return files_[static_cast<std::size_t>(file)].find_cached(offset, bytes);
  }

  const PosixFile& operator[](FileId file) const { return files_[static_cast<std::size_t>(file)]; }

  /// True when there are files and each is read directly.
  bool all_direct() const noexcept;
  /// True when there are files, each is read directly, and what is cached of it from the page cache.
  bool all_read_cached() const noexcept;
  const std::vector<Fallback>& fallbacks() const noexcept { return fallbacks_; }

 private:
  void note_buffered(const std::string& path, std::string reason);
  void open_cached(PosixFile& file);

  StorageOptions options_;
  std::string backend_;
  std::vector<PosixFile> files_;
  std::vector<Fallback> fallbacks_;
};

}  // namespace tierstream
