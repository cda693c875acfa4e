#pragma once

#include <tierstream/tiers/host_memory.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "tools/timing.h"

namespace tierstream {

/// One way to read a file as fast as the system lets: the plain calls, nothing of tierstream's storage.
struct RawReading {
  enum class Way : std::uint8_t { kThreads, kIoUring };
  Way way;
  bool direct;
  unsigned parallel;  ///< threads, or reads in flight of the one ring
  std::uint64_t request_bytes;
  /// What the reads land in, used in turn. As much as the subject has: where a virtual disk's bytes are
  /// copied by the host's processor, a few MiB that stay in its cache would be read faster.
  std::uint64_t memory_bytes = 0;
};

std::string describe(const RawReading& reading);

struct ByteRange {
  std::uint64_t begin;  ///< a multiple of 4096
  std::uint64_t end;    ///< a multiple of 4096, or the file's end
  std::uint64_t bytes() const { return end - begin; }
};

/// Reads ranges of one file and says how long that took: what the disk or the page cache can give.
///
/// Threads: one at a time; threads of its own live during `read` only.
/// Errors: Error kOpenFailed, kBackendUnavailable (io_uring is refused), kReadFailed (also for short reads).
class RawReader {
 public:
  RawReader(std::string file, const RawReading& reading);
  RawReader(const RawReader&) = delete;
  RawReader& operator=(const RawReader&) = delete;
  ~RawReader();

  /// False: the system refuses io_uring, and `reading` wants it.
  static bool available(const RawReading& reading);

  /// Seconds for all of `ranges`, in their order. Throws Error kCancelled when it was stopped, once the reads
  /// under way have ended.
  double read(std::span<const ByteRange> ranges, const std::stop_token& stop = {});
  double read(const ByteRange& range, const std::stop_token& stop = {}) { return read({&range, 1}, stop); }

 private:
  class PlainRing;

  void read_by_threads(std::span<const ByteRange> requests, const std::stop_token& stop);
  void read_by_io_uring(std::span<const ByteRange> requests, const std::stop_token& stop);
  std::span<std::byte> buffer(std::size_t request) const;
  /// Throws unless `result` is the whole of `request`.
  void check(std::int64_t result, const ByteRange& request) const;

  std::string file_;
  RawReading reading_;
  HostMemory memory_;
  int descriptor_;
  std::unique_ptr<PlainRing> ring_;  ///< null: threads
};

/// What happens around each reading of a file that is read several times.
struct RawRunOptions {
  std::function<void()> prepare = {};  ///< before it, untimed: makes or checks the file's cache state
  std::stop_token stop = {};
};
/// One reading of `ranges`, to be run as often as one likes. It has memory of its own, made anew each time:
/// see docs/benchmarks.md.
TimedRun raw_run(const std::string& file, std::vector<ByteRange> ranges, const RawReading& reading,
                 const RawRunOptions& options = {});

struct RawTiming {
  RawReading reading;
  std::vector<double> seconds;  ///< one for each round
};

/// Several readings of a range, compared by trying each of them, in turns.
struct RawSweep {
  std::uint64_t bytes = 0;         ///< of the range
  std::vector<RawTiming> timings;  ///< of the ways that the system offers; by median, the fastest first
};
std::string describe(const RawSweep& sweep);
/// The fastest reading for each way that the system offers.
std::vector<RawReading> best_of_each_way(const RawSweep& sweep);

struct RawSweepOptions {
  std::uint64_t memory_bytes = 0;  ///< of each reading
  unsigned rounds = 4;
  RawRunOptions run = {};
  std::function<void(std::size_t done_runs, std::size_t all_runs)> after_run = {};
};
/// Of the direct readings, on a cold file.
RawSweep sweep_direct(const std::string& file, const ByteRange& range, const RawSweepOptions& options);
/// Of the readings through the page cache, on a warm file.
RawSweep sweep_cached(const std::string& file, const ByteRange& range, const RawSweepOptions& options);

}  // namespace tierstream
