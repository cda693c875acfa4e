#pragma once

#include <tierstream/io/storage_backend.h>
#include <tierstream/tiers/host_memory.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tierstream {

/// A whole file, read by a storage backend whose queue is kept full.
/// Threads: the one that calls `run`.
class FileReading {
 public:
  static constexpr std::uint64_t kRequestBytes = 1u << 20;
  static constexpr std::size_t kRequests = 16;  ///< in flight, as by default
  static constexpr std::uint64_t kMemoryBytes = kRequests * kRequestBytes;

  FileReading(std::unique_ptr<StorageBackend> storage, const std::string& file, bool registers_buffers);

  /// Throws Error kReadFailed when a read fails.
  void run();

  StoragePath path() const { return storage_->path(); }
  const StorageCounters& counters() const { return storage_->counters(); }

 private:
  HostMemory memory_{kMemoryBytes};
  std::unique_ptr<StorageBackend> storage_;  // its end waits for reads that may still write to the memory
  FileId file_;
  std::vector<std::size_t> free_;  // pieces of the memory
  std::vector<ReadRequest> batch_;
  std::vector<Completion> completions_ = std::vector<Completion>(kRequests);
};

}  // namespace tierstream
