#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/io/storage_backend.h>
#include <tierstream/tiers/chunk_set.h>
#include <tierstream/tiers/device.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tierstream {

/// What a thread reads with. Threads: one, which owns the storage's queue.
class Reader {
 public:
  Reader(const LayerTable& table, std::uint64_t request_bytes)
      : table_(table), request_bytes_(request_bytes), scratch_(kChunkBytes / 2) {}

  std::span<std::byte> scratch() { return scratch_; }

  /// Reads file bytes from `begin` on through a storage of its own to `memory`, which may end behind the
  /// file.
  void read(std::uint32_t file, std::uint64_t begin, std::span<std::byte> memory);

 private:
  const LayerTable& table_;
  const std::uint64_t request_bytes_;
  std::vector<std::byte> scratch_;
  std::unique_ptr<StorageBackend> storage_;
};

/// Memory as large as a file, of which only the pages of kept chunks are touched. Threads: any.
class KeptFile {
 public:
  virtual ~KeptFile() = default;

  const std::byte* data() const noexcept { return data_; }
  /// Throws Error kFileChanged.
  virtual void check_unchanged() const {}
  /// `was_there`: it was once; the answer where nobody else can say.
  virtual bool is_there(std::uint64_t begin, std::uint64_t end, bool was_there) const noexcept = 0;
  /// Brings file bytes, which are not there.
  virtual void read(std::uint64_t begin, std::uint64_t end, Reader& reader) const = 0;
  /// Locks pages in memory, or says why not.
  virtual std::string lock(std::uint64_t begin, std::uint64_t bytes, bool is_asked_for) const = 0;
  virtual HostAccess access() const noexcept = 0;
  /// Unlocks pages and takes them out of this process.
  void release(std::uint64_t begin, std::uint64_t bytes) const noexcept;
  /// And out of the system's cache.
  virtual void drop(std::uint64_t, std::uint64_t) const noexcept {}

 protected:
  const std::byte* data_ = nullptr;
};

/// Of a file of the file system its pages, mapped shared and read-only; of one of another backend, which has
/// no pages to map, a copy in memory of this process. Throws Error kOpenFailed, kFileChanged, kOutOfMemory.
std::shared_ptr<KeptFile> make_kept_file(const LayerTable& table, std::uint32_t file);

}  // namespace tierstream
