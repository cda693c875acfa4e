#pragma once

#include <tierstream/io/storage_backend.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace tierstream {

/// A source of bytes with a blocking read: the least that a user's own storage has to implement, two
/// functions.
///
/// Threads: `open` is called by one thread at a time and never while reads are under way
/// (StorageBackend::open sees to that), so `read` may look its file up without a lock; `read` is called by
/// several threads at once.
class BlockingStorage {
 public:
  virtual ~BlockingStorage() = default;

  /// Opens `path`; files are numbered 0, 1, 2, ... in the order of these calls. Throws Error.
  virtual FileInfo open(FileId file, const std::string& path) = 0;

  /// Reads up to `destination.size()` bytes at `offset`. Returns how many (fewer is allowed, 0 means the end
  /// of the file) or a negative errno; must not throw.
  virtual std::int64_t read(FileId file, std::uint64_t offset, std::span<std::byte> destination) noexcept = 0;

  /// For storage that reads past the page cache: whether these bytes, which lie within the file, are had from
  /// it without the disk; then they are asked for by `read_cached`. Called by one thread, beside reads.
  virtual bool is_cached(FileId, std::uint64_t /*offset*/, std::uint64_t /*bytes*/) { return false; }
  virtual std::int64_t read_cached(FileId file, std::uint64_t offset,
                                   std::span<std::byte> destination) noexcept {
    return read(file, offset, destination);
  }

  /// A read was refused as invalid (EINVAL): go on without direct I/O and return true, if that was in use.
  /// Called while other reads are under way. Throws Error when direct I/O was required.
  virtual bool drop_direct(FileId) { return false; }

  /// Which way bytes take, and what was wished for and not had; `backend` is the name that errors and reports
  /// show.
  virtual StoragePath path() const = 0;
};

struct ThreadedOptions {
  unsigned threads = 8;  ///< 8-16 saturate one NVMe drive with reads of 1-4 MiB
  std::size_t max_in_flight = 64;
  std::size_t max_cached_in_flight = 0;  ///< as in StorageLimits
};

/// Runs a BlockingStorage on threads of its own. Destroying it waits for the reads that have begun.
/// Throws Error kBackendUnavailable when the threads cannot be started.
std::unique_ptr<StorageBackend> make_threaded_backend(std::unique_ptr<BlockingStorage> storage,
                                                      const ThreadedOptions& options = {});

}  // namespace tierstream
