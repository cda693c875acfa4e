#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace tierstream {

class ForkGuard;

/// A file that a backend has opened: 0, 1, 2, ... in the order of opening.
enum class FileId : std::uint32_t {};

/// Tells one content of a path from another: a file replaced or written to changes at least one of these.
struct FileVersion {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t modified_ns = 0;
  bool operator==(const FileVersion&) const = default;
};

/// What is known of a file once it is open.
struct FileInfo {
  std::uint64_t bytes = 0;
  std::uint32_t offset_alignment = 1;  ///< a read's offset and length are multiples of this; a power of two
  std::uint32_t memory_alignment = 1;  ///< and its destination's address of this; a power of two
  bool is_local_file = false;          ///< the path names a file of the system's that can be mapped
  FileVersion version{};               ///< of a local file: what fstat says of it
};

/// Whether `descriptor` is open for the local file that `info` tells of, in the version that it tells of.
bool is_unchanged(const FileInfo& info, int descriptor) noexcept;

/// One read. Its destination stays untouched by everyone else until its completion was collected.
/// The length may reach past the end of the file (alignment demands it); only the bytes up to the end arrive.
struct ReadRequest {
  std::uint64_t tag;  ///< handed back in the completion; the backend does not interpret it
  FileId file;
  std::uint64_t offset;
  std::span<std::byte> destination;
};

/// The end of one read: all its bytes - min(length, file size - offset) - or an error, never a part.
struct Completion {
  std::uint64_t tag;
  std::size_t bytes;
  /// The system's errno; Errc::kEndOfFile when the file ended early; Errc::kRequirementNotMet when direct I/O
  /// was required and refused by the read itself; the backend's own where a read could not be started again.
  std::error_code error;
  std::size_t cached_bytes = 0;  ///< of `bytes`, as in StorageCounters
};

/// With 1000 tries, a read may stay busy for a second before it is given up.
inline constexpr std::chrono::nanoseconds kBusyPause = std::chrono::milliseconds(1);

struct StorageLimits {
  std::size_t max_in_flight = 64;            ///< requests; `submit` takes no more than this at once
  std::size_t max_request_bytes = 1u << 30;  ///< below Linux' MAX_RW_COUNT of 2 GiB - 4 KiB
  /// Requests, while each of them is had from the page cache. Less than `max_in_flight` means as many.
  std::size_t max_cached_in_flight = 0;
  /// How long a read that met EAGAIN rests before it is tried again: `kBusyPause` where the operating system
  /// answers. 0: until the next `collect`, for storage without a clock, as simulations are.
  std::chrono::nanoseconds busy_pause{0};
};

/// Something that was wished for and not had, and why.
struct Fallback {
  std::string wanted;  ///< e.g. "direct I/O"
  std::string reason;  ///< e.g. "open(O_DIRECT) on /x/y: Invalid argument"
};

/// Which way bytes really take through a backend.
struct StoragePath {
  std::string backend;        ///< "io_uring", "posix", "memory", ...
  bool direct = false;        ///< reads bypass the page cache
  bool cached_reads = false;  ///< but for bytes that lie in it already: those are read from there
  bool files_registered = false;
  bool buffers_registered = false;
  std::vector<Fallback> fallbacks{};
};

struct StorageCounters {
  std::uint64_t requests = 0;
  std::uint64_t bytes = 0;
  /// Of these, the ones that were found in the page cache. Known with `StoragePath::cached_reads` only:
  /// who reads through the page cache does not learn what it had to fetch from the disk.
  std::uint64_t cached_bytes = 0;
  std::uint64_t resubmitted_short = 0;
  std::uint64_t retried = 0;  ///< EINTR and EAGAIN
};

/// Reads byte ranges of files, many at a time: a queue to which reads are submitted and from which
/// completions are collected, in any order.
///
/// This class is the shell that every backend shares: it checks requests, counts, resubmits short reads and
/// retries EINTR and EAGAIN, so that a completion is whole or an error. Derived classes move bytes in the
/// private `do_` functions. A source with a blocking read only is easier to write as a BlockingStorage
/// (threaded_backend.h).
///
/// Threads: one at a time, except `wake` and `path`, which any thread may call at any time. The first thread
/// to submit or collect owns the queue from then on; others may still, while nothing is in flight, open files
/// and destroy it. Errors: `open` and misuse throw Error, also in a child process after fork(); failed
/// reads are completions. Destroying a backend with reads in flight waits for them; a caller whose storage
/// may hang collects with a deadline first (see `in_flight`).
class StorageBackend {
 public:
  explicit StorageBackend(StorageLimits limits);
  virtual ~StorageBackend();
  StorageBackend(const StorageBackend&) = delete;
  StorageBackend& operator=(const StorageBackend&) = delete;

  const StorageLimits& limits() const noexcept { return limits_; }

  /// Opens `path` for reading, while nothing is in flight: backends look files up from other threads during
  /// reads. Throws Error kOpenFailed or kNotARegularFile, naming it; kInvalidArgument beside reads in flight.
  FileId open(const std::string& path);
  const FileInfo& info(FileId file) const;
  const std::string& path_of(FileId file) const;

  /// Tells the backend that reads will land in `memory`, so that it can prepare it once (io_uring: fixed
  /// buffers). Optional: where it is refused, false is returned, the reason stands in `path()`, and reads
  /// into `memory` work all the same. `memory` must outlive the backend or the next `unregister_memory`.
  bool register_memory(std::span<std::byte> memory);
  void unregister_memory();

  /// Starts the first n of `requests` and returns n, which is less than all of them when the queue is full.
  /// Never blocks, never allocates. Throws Error kInvalidArgument for a request that breaks its file's
  /// alignment, is empty, longer than `max_request_bytes`, or starts at or after the end of the file.
  std::size_t submit(std::span<const ReadRequest> requests);

  /// Moves up to `completions.size()` finished reads to the caller and returns how many. When there is none
  /// it waits up to `wait` for one, or until `wake`; it may return 0 early, or wait up to a millisecond more
  /// for others that are about to end. `nanoseconds::max()` is no limit. Never allocates.
  std::size_t collect(std::span<Completion> completions, std::chrono::nanoseconds wait);

  /// Ends the present wait in `collect` or, where there is none, that of the next call, within a millisecond.
  /// Any thread, any time; does not block.
  void wake() noexcept { do_wake(); }

  /// Requests submitted and not yet collected.
  std::size_t in_flight() const noexcept { return in_flight_; }
  /// How many `submit` takes now: never so many that more than `max_in_flight` would have to go to the disk,
  /// as far as is known of those under way.
  std::size_t free_requests() const noexcept;

  StoragePath path() const;
  const StorageCounters& counters() const noexcept { return counters_; }

 protected:
  /// A read as the derived class sees it.
  struct RawRead {
    std::uint64_t id;  ///< handed back in RawCompletion
    FileId file;
    std::uint64_t offset;
    std::span<std::byte> destination;
    bool cached = false;  ///< `do_is_cached` said so: to be read through the page cache
  };
  struct RawCompletion {
    std::uint64_t id;
    std::int64_t result;  ///< bytes read (may be fewer than asked; 0: end of file) or a negative errno
  };

  /// From the constructor, and where files are opened and memory registered.
  void note_fallback(Fallback fallback);
  /// From `do_submit` and `do_collect`: another thread may ask for the path meanwhile.
  void note_late_fallback(Fallback fallback);

  /// After fork() the child holds a copy without the threads and the ring that do the work. Its destructor
  /// must neither wait for them nor touch them.
  bool in_child_process() const noexcept;

 private:
  virtual FileInfo do_open(FileId file, const std::string& path) = 0;
  /// For backends that read past the page cache: whether these bytes, which lie within the file, are had from
  /// it without the disk and without bringing others in. Asked for each read, right before it is submitted.
  virtual bool do_is_cached(FileId, std::uint64_t /*offset*/, std::uint64_t /*bytes*/) { return false; }
  /// Starts all of `reads`, or throws and starts none. There are never more than `max_cached_in_flight` under
  /// way.
  virtual void do_submit(std::span<const RawRead> reads) = 0;
  /// `wait` is neither negative nor so long that adding it to a clock overflows.
  virtual std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds wait) = 0;
  virtual void do_wake() noexcept = 0;
  /// Empty: registered. Otherwise the reason why not.
  virtual std::optional<std::string> do_register_memory(std::span<std::byte> memory);
  virtual void do_unregister_memory() {}
  /// A read failed with EINVAL though its alignment was right: go on without direct I/O. Not called again for
  /// a file once it was true. False: it was not in use. Throws Error when direct I/O was required: its code
  /// ends the read.
  virtual bool do_drop_direct(FileId file);
  /// Backend name, direct and registered flags; the shell adds the fallbacks.
  virtual StoragePath do_path() const = 0;

  struct OpenFile {
    std::string path;
    FileInfo info;
    bool without_direct = false;
  };
  /// A request not yet collected. Index and generation make up a RawRead's id; every result ends a
  /// generation, so that a stale, doubled or foreign completion is found out instead of marking the wrong
  /// memory as read.
  struct InFlight {
    ReadRequest request;
    std::uint64_t expected_bytes;
    std::uint64_t done_bytes;
    std::uint64_t cached_bytes;  ///< of those done
    std::uint32_t generation;
    std::uint32_t busy_tries;     ///< EAGAIN since bytes last arrived
    std::uint32_t stalled_tries;  ///< short reads since then that ended no farther
    bool without_direct;          ///< was tried again after direct I/O was given up
    bool cached;                  ///< the read under way
    bool busy;
  };

  void check_process() const;
  void check_request(const ReadRequest& request) const;
  void begin(const ReadRequest& request);
  /// What is left to read of a request, from the last position that meets the file's alignment.
  RawRead remaining(std::uint32_t index) const;
  /// Keeps `uncached_`: how many of the requests in flight are not `cached`.
  void set_cached(InFlight& request, bool cached);
  /// Submits `to_submit_`, each read from where it is had soonest.
  void start_reads();
  /// The same of reads that were begun before. What cannot be started ends in `room` with the reason, and
  /// rests where there is none. Returns how many have ended.
  std::size_t start_again(std::span<Completion> room);
  /// The one place where the result of a read is looked at. True: the request is finished and `completion`
  /// set.
  bool settle(const RawCompletion& raw, Completion& completion);
  bool try_without_direct(InFlight& request, std::error_code& error);
  void pause(std::uint32_t index);
  /// Moves the paused reads to `to_submit_`, once their pause has passed.
  void end_pause();
  Completion finish(std::uint32_t index, std::error_code error);

  StorageLimits limits_;
  std::unique_ptr<ForkGuard> fork_guard_;
  mutable std::mutex path_mutex_;  ///< held wherever what `path` tells may change
  std::vector<OpenFile> files_;
  std::vector<InFlight> requests_;
  std::vector<std::uint32_t> free_;
  std::vector<RawRead> to_submit_;
  std::vector<std::uint32_t> paused_;                ///< tried again together at `pause_end_`
  std::chrono::steady_clock::time_point pause_end_;  ///< `busy_pause` after the first of them was paused
  std::vector<RawCompletion> raw_completions_;
  std::vector<Fallback> fallbacks_;
  std::size_t in_flight_ = 0;
  std::size_t uncached_ = 0;  ///< of those
  StorageCounters counters_;
};

/// Makes a backend of its own for each caller: a checkpoint's headers are read through one, and every
/// streamer has one on its staging thread.
using StorageFactory = std::function<std::unique_ptr<StorageBackend>()>;

/// Reads `destination.size()` bytes at `offset`, whatever the file's alignment. Blocks. `destination` may be
/// any memory. Nothing else may be in flight. Throws Error kReadFailed or kEndOfFile, naming file and offset.
void read_exactly(StorageBackend& backend, FileId file, std::uint64_t offset,
                  std::span<std::byte> destination);

}  // namespace tierstream
