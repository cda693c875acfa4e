#pragma once

#include <tierstream/tiers/host_memory.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/comparison.h"

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

/// Reads ranges of one file and says how long that took: the ceiling that benches compare with.
///
/// Threads: one at a time; threads of its own live during `read` only.
/// Errors: Error kOpenFailed, kBackendUnavailable (io_uring is refused), kReadFailed (also for short reads).
class RawReader {
 public:
  RawReader(std::string file, const RawReading& reading);
  RawReader(const RawReader&) = delete;
  RawReader& operator=(const RawReader&) = delete;
  ~RawReader();

  const RawReading& reading() const noexcept { return reading_; }

  /// Seconds.
  double read(const ByteRange& range);

 private:
  class PlainRing;

  void read_by_threads(const ByteRange& range);
  void read_by_io_uring(const ByteRange& range);
  std::span<std::byte> buffer(std::uint64_t offset) const;
  /// Throws unless `result` is the whole of a read of `bytes`.
  void check(std::int64_t result, std::uint64_t offset, std::uint64_t bytes) const;

  std::string file_;
  RawReading reading_;
  HostMemory memory_;
  int descriptor_;
  std::unique_ptr<PlainRing> ring_;  ///< null: threads
};

/// The fastest of several readings of a range, found by trying each of them.
struct RawSweep {
  std::vector<RawReading> best;  ///< one for each way that the system offers
  std::string rates;             ///< of every reading, for people
};
/// Of the direct readings, on a cold file.
RawSweep sweep_direct(const std::string& file, const ByteRange& range, std::uint64_t memory_bytes);
/// Of the readings through the page cache, on a warm file.
RawSweep sweep_cached(const std::string& file, const ByteRange& range, std::uint64_t memory_bytes);

/// Readings of one range as ceilings of `compare`. `prepare` runs before each, untimed: it makes or checks
/// the file's cache state. Each reading has memory of its own, made anew: see docs/benchmarks.md.
std::vector<Ceiling> raw_ceilings(const std::string& file, const ByteRange& range,
                                  std::span<const RawReading> readings, const std::function<void()>& prepare);

}  // namespace tierstream
