#include "tools/raw_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <tierstream/io/error.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <exception>
#include <memory>
#include <thread>
#include <utility>

namespace tierstream {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
/// What direct I/O may ask of a read's length; a file's last read reaches past its end for it.
constexpr std::uint64_t kLengthAlignment = 4096;

double median_seconds(const RawTiming& timing) { return quantile(timing.seconds, 0.5); }

constexpr std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + kLengthAlignment - 1) / kLengthAlignment * kLengthAlignment;
}

RawSweep sweep(const std::string& file, const ByteRange& range, std::span<const RawReading> readings,
               const RawSweepOptions& options) {
  RawSweep result{.bytes = range.bytes(), .timings = {}};
  std::vector<TimedRun> runs;
  for (RawReading reading : readings) {
    if (!RawReader::available(reading)) continue;
    reading.memory_bytes = options.memory_bytes;
    result.timings.push_back({reading, {}});
    runs.push_back(raw_run(file, {range}, reading, options.run));
  }
  std::vector<std::vector<double>> seconds = take_turns(runs, options.rounds, options.after_run);
  for (std::size_t i = 0; i < runs.size(); ++i) result.timings[i].seconds = std::move(seconds[i]);
  std::ranges::sort(result.timings, {}, median_seconds);
  return result;
}

}  // namespace

/// Owns a ring without any of the newer flags: they make no difference at reads of this size.
class RawReader::PlainRing {
 public:
  explicit PlainRing(unsigned entries) {
    const int result = ::io_uring_queue_init(entries, &ring_, 0);
    if (result < 0) {
      throw Error(Errc::kBackendUnavailable, "io_uring_setup failed", {.backend = "raw io_uring"},
                  {-result, std::generic_category()});
    }
  }
  PlainRing(const PlainRing&) = delete;
  PlainRing& operator=(const PlainRing&) = delete;
  ~PlainRing() { ::io_uring_queue_exit(&ring_); }

  io_uring* get() noexcept { return &ring_; }

  /// A filter may let io_uring_setup pass and refuse this.
  bool can_enter() {
    ::io_uring_prep_nop(::io_uring_get_sqe(&ring_));
    return ::io_uring_submit_and_wait(&ring_, 1) >= 0;
  }

 private:
  io_uring ring_{};
};

std::string describe(const RawReading& reading) {
  const std::string way = reading.way == RawReading::Way::kThreads
                              ? counted(reading.parallel, "thread")
                              : fmt::format("io_uring depth {}", reading.parallel);
  return fmt::format("{} x {} MiB {}", way, reading.request_bytes / kMiB,
                     reading.direct ? "direct" : "buffered");
}

RawReader::RawReader(std::string file, const RawReading& reading)
    : file_(std::move(file)),
      reading_(reading),
      memory_(std::max(reading.memory_bytes, reading.parallel * reading.request_bytes)),
      descriptor_(::open(file_.c_str(), O_RDONLY | O_CLOEXEC | (reading.direct ? O_DIRECT : 0))) {
  if (descriptor_ < 0) {
    throw Error(Errc::kOpenFailed, reading.direct ? "cannot open for direct I/O" : "cannot open",
                {.file = file_}, {errno, std::generic_category()});
  }
  try {
    if (reading.way == RawReading::Way::kIoUring) ring_ = std::make_unique<PlainRing>(reading.parallel);
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

RawReader::~RawReader() { ::close(descriptor_); }

bool RawReader::available(const RawReading& reading) try {
  return reading.way == RawReading::Way::kThreads || PlainRing(reading.parallel).can_enter();
} catch (const Error&) {
  return false;
}

double RawReader::read(std::span<const ByteRange> ranges, const std::stop_token& stop) {
  std::vector<ByteRange> requests;
  for (const ByteRange& range : ranges) {
    for (std::uint64_t begin = range.begin; begin < range.end; begin = requests.back().end) {
      requests.push_back({begin, std::min(begin + reading_.request_bytes, range.end)});
    }
  }
  const double seconds = seconds_of([&] {
    reading_.way == RawReading::Way::kThreads ? read_by_threads(requests, stop)
                                              : read_by_io_uring(requests, stop);
  });
  if (stop.stop_requested()) throw Error(Errc::kCancelled, "reading was stopped", {.file = file_});
  return seconds;
}

/// Two reads may share one when one of them is late: nobody looks at the bytes.
std::span<std::byte> RawReader::buffer(std::size_t request) const {
  const std::uint64_t buffers = memory_.span().size() / reading_.request_bytes;
  return memory_.span().subspan(request % buffers * reading_.request_bytes, reading_.request_bytes);
}

void RawReader::check(std::int64_t result, const ByteRange& request) const {
  if (result == static_cast<std::int64_t>(request.bytes())) return;
  ErrorPlace place{.file = file_, .offset = request.begin, .expected_bytes = request.bytes()};
  if (result < 0) {
    throw Error(Errc::kReadFailed, "read failed", place,
                {static_cast<int>(-result), std::generic_category()});
  }
  place.actual_bytes = static_cast<std::uint64_t>(result);
  throw Error(Errc::kReadFailed, "short read", place);
}

void RawReader::read_by_threads(std::span<const ByteRange> requests, const std::stop_token& stop) {
  std::atomic<std::size_t> next = 0;
  std::vector<std::exception_ptr> failures(reading_.parallel);
  const auto work = [&](unsigned index) {
    try {
      for (;;) {
        const std::size_t i = next++;
        if (i >= requests.size() || stop.stop_requested()) return;
        const ssize_t result = ::pread(descriptor_, buffer(i).data(), padded(requests[i].bytes()),
                                       static_cast<off_t>(requests[i].begin));
        check(result < 0 ? -errno : result, requests[i]);
      }
    } catch (...) {
      failures[index] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < reading_.parallel; ++i) threads.emplace_back(work, i);
  }
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

void RawReader::read_by_io_uring(std::span<const ByteRange> requests, const std::stop_token& stop) {
  std::size_t next = 0;
  unsigned under_way = 0;
  const auto start = [&] {
    if (next == requests.size() || stop.stop_requested()) return;
    io_uring_sqe* const entry = ::io_uring_get_sqe(ring_->get());
    ::io_uring_prep_read(entry, descriptor_, buffer(next).data(),
                         static_cast<unsigned>(padded(requests[next].bytes())), requests[next].begin);
    ::io_uring_sqe_set_data64(entry, next++);
    // One by one, or the kernel makes larger reads of neighbours, and fewer of them.
    ::io_uring_submit(ring_->get());
    ++under_way;
  };
  for (unsigned i = 0; i < reading_.parallel; ++i) start();
  while (under_way > 0) {
    if (const int result = ::io_uring_submit_and_wait(ring_->get(), 1); result < 0 && result != -EINTR) {
      throw Error(Errc::kReadFailed, "io_uring_enter failed", {.file = file_},
                  {-result, std::generic_category()});
    }
    io_uring_cqe* entry = nullptr;
    while (::io_uring_peek_cqe(ring_->get(), &entry) == 0) {
      check(entry->res, requests[entry->user_data]);
      ::io_uring_cqe_seen(ring_->get(), entry);
      --under_way;
      start();
    }
  }
}

TimedRun raw_run(const std::string& file, std::vector<ByteRange> ranges, const RawReading& reading,
                 const RawRunOptions& options) {
  return [=, ranges = std::move(ranges)] {
    if (options.prepare) options.prepare();
    return RawReader(file, reading).read(ranges, options.stop);
  };
}

std::string describe(const RawSweep& sweep) {
  std::string text;
  for (const RawTiming& timing : sweep.timings) {
    text += fmt::format("{}{} {:.2f} GiB/s", text.empty() ? "" : ", ", describe(timing.reading),
                        static_cast<double>(sweep.bytes) / 0x1p30 / median_seconds(timing));
  }
  return text;
}

std::vector<RawReading> best_of_each_way(const RawSweep& sweep) {
  std::vector<RawReading> best;
  for (const auto& [reading, seconds] : sweep.timings) {
    if (std::ranges::find(best, reading.way, &RawReading::way) == best.end()) best.push_back(reading);
  }
  return best;
}

RawSweep sweep_direct(const std::string& file, const ByteRange& range, const RawSweepOptions& options) {
  using Way = RawReading::Way;
  constexpr std::array kReadings = {
      RawReading{Way::kThreads, true, 1, 4 * kMiB},  RawReading{Way::kThreads, true, 4, 1 * kMiB},
      RawReading{Way::kThreads, true, 4, 4 * kMiB},  RawReading{Way::kThreads, true, 8, 1 * kMiB},
      RawReading{Way::kThreads, true, 8, 4 * kMiB},  RawReading{Way::kIoUring, true, 8, 4 * kMiB},
      RawReading{Way::kIoUring, true, 16, 1 * kMiB}, RawReading{Way::kIoUring, true, 64, 1 * kMiB},
  };
  return sweep(file, range, kReadings, options);
}

RawSweep sweep_cached(const std::string& file, const ByteRange& range, const RawSweepOptions& options) {
  using Way = RawReading::Way;
  constexpr std::array kReadings = {
      RawReading{Way::kThreads, false, 1, 1 * kMiB},  RawReading{Way::kThreads, false, 2, 1 * kMiB},
      RawReading{Way::kThreads, false, 4, 1 * kMiB},  RawReading{Way::kThreads, false, 8, 1 * kMiB},
      RawReading{Way::kThreads, false, 16, 1 * kMiB},
  };
  return sweep(file, range, kReadings, options);
}

}  // namespace tierstream
