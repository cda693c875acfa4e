#pragma once

#include <tierstream/io/storage_backend.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace tierstream {

/// Whether reads bypass the page cache.
enum class CacheUse {
  /// Request by request: what lies in the page cache is read from it, anything else directly, so that nothing
  /// is added to the cache. Without direct I/O, buffered, with the reason kept. See docs/decisions/0006.
  kAuto,
  kDirect,    ///< always direct, or Error kRequirementNotMet
  kBuffered,  ///< through the page cache
};

struct StorageOptions {
  CacheUse cache = CacheUse::kAuto;
  /// Requests. At 1 MiB each, 16 MiB keep a drive of 14 GB/s busy that answers within 1 ms; an array wants
  /// more. Too many make the nearest layer late: a drive serves side by side what it has been given.
  std::size_t max_in_flight = 16;
  /// Requests, while all of them are had from the page cache; no less than `max_in_flight`. One processor
  /// copies 32 MiB in 5 ms: longer than a thread that computes keeps the staging thread off a processor.
  std::size_t max_cached_in_flight = 32;
  /// At least 1. The posix backend's own, 8 if not set; the kernel's workers that carry out io_uring's
  /// buffered reads, from the page cache and from the disk, as many as the kernel lends if not set.
  /// io_uring's direct reads need none.
  std::optional<unsigned> threads = {};
  /// A fallback from what is required here throws Error kRequirementNotMet instead of being recorded.
  bool require_io_uring = false;
  bool require_registered = false;
};

/// Finds the storage backend for a checkpoint's address. An address is a path, or SCHEME://PATH.
///
/// Known from the start: `file` (io_uring; posix threads where that is refused), `io_uring`, `posix`. A plain
/// path is a `file`. Others are added by `add`, see examples/backend.
/// A value, not a singleton: programs make one and hand it to Checkpoint::open.
/// Threads: const functions may be called from any thread.
class StorageRegistry {
 public:
  using Make = std::function<std::unique_ptr<StorageBackend>(const StorageOptions&)>;

  StorageRegistry();

  /// `scheme` is the part before "://". Replaces a scheme of the same name.
  void add(std::string scheme, Make make);

  struct Resolved {
    StorageFactory factory;
    std::string path;  ///< the address without its scheme
  };
  /// Throws Error kUnknownScheme, listing the known ones.
  Resolved resolve(const std::string& address, const StorageOptions& options = {}) const;

 private:
  std::map<std::string, Make> makes_;
};

}  // namespace tierstream
