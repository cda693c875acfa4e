#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace tierstream {

/// A new file, written from front to back without leaving its pages in the page cache: what is measured on it
/// later is cold, and writing a file larger than memory displaces nothing.
///
/// Threads: one at a time. Errors: Error kWriteFailed, naming the file; a file that was not finished is the
/// caller's to remove.
class UncachedFile {
 public:
  /// Creates (or empties) the file and sets `bytes` aside on its disk, where the file system can.
  UncachedFile(std::filesystem::path path, std::uint64_t bytes);
  UncachedFile(const UncachedFile&) = delete;
  UncachedFile& operator=(const UncachedFile&) = delete;
  ~UncachedFile();

  void append(std::span<const std::byte> bytes);
  /// Returns when all bytes are on the disk and none in the page cache.
  void finish();

 private:
  void write_back();
  [[noreturn]] void fail(const char* action) const;

  std::filesystem::path path_;
  int descriptor_;
  std::uint64_t written_bytes_ = 0;
  std::uint64_t started_bytes_ = 0;  ///< of which are on their way to the disk
  std::uint64_t dropped_bytes_ = 0;  ///< of which are there, and out of the page cache
};

}  // namespace tierstream
