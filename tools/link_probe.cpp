#include "tools/link_probe.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/host_memory.h>
#include <tierstream/tiers/memory_room.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include "tools/page_cache.h"
#include "tools/raw_reader.h"
#include "tools/timing.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kReadMemoryBytes = 64 * kMiB;  // of one reading: a ring
/// Of the file: which of the direct readings is the fastest shows on a part of it.
constexpr std::uint64_t kSweptShare = 4;
/// What `probe_reads` reads at once; short of it a disk has hardly begun.
constexpr std::uint64_t kPieceBytes = 256 * kMiB;
constexpr double kReadSeconds = 2;
constexpr unsigned kMostRounds = 16;
constexpr std::array kQuickReadings = {
    RawReading{RawReading::Way::kThreads, true, 8, kMiB, kReadMemoryBytes},
    RawReading{RawReading::Way::kIoUring, true, 32, kMiB, kReadMemoryBytes}};
constexpr std::array kBufferedReadings = {
    RawReading{RawReading::Way::kThreads, false, 1, kMiB, kReadMemoryBytes},
    RawReading{RawReading::Way::kThreads, false, 8, kMiB, kReadMemoryBytes}};

LinkRate rate_of(std::uint64_t bytes, std::span<const double> seconds, std::string how) {
  const auto rate = [&](double share) { return static_cast<double>(bytes) / quantile(seconds, share); };
  return {.bytes_per_second = rate(0.5),
          .low_quartile = rate(0.75),
          .high_quartile = rate(0.25),
          .how = std::move(how),
          .refusal = {}};
}

LinkRate refused(std::string reason) {
  LinkRate rate;
  rate.refusal = std::move(reason);
  return rate;
}

/// For `take_turns`, whose runs move `bytes` each.
std::function<void(std::size_t, std::size_t)> progress_of(const LinkProbeOptions& options, const char* what,
                                                          std::uint64_t bytes) {
  return [&options, what, bytes](std::size_t done_runs, std::size_t all_runs) {
    if (options.stop.stop_requested()) throw Error(Errc::kCancelled, "measuring was stopped");
    if (options.progress) options.progress(what, done_runs * bytes, all_runs * bytes);
  };
}

std::uint64_t bytes_of(const std::string& file) {
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(file, error);
  if (error) throw Error(Errc::kOpenFailed, "cannot tell its size", {.file = file}, error);
  return bytes;
}

/// One file, read in all ways.
class StorageProbe {
 public:
  StorageProbe(const std::string& file, const LinkProbeOptions& options)
      : file_(file), options_(options), all_{.begin = 0, .end = bytes_of(file)} {}

  StorageRates measure() {
    if (try_make_cold(file_)) {
      sweep_direct_readings();
      measure_cold();
    } else {
      rates_.disk_direct = rates_.disk_buffered =
          refused("the page cache keeps the file: it lies in memory, or is in use");
    }
    measure_warm();
    return std::move(rates_);
  }

 private:
  void sweep_direct_readings() try {
    const std::uint64_t share = (all_.end / kSweptShare + kPageBytes - 1) / kPageBytes * kPageBytes;
    const ByteRange part = {.begin = 0, .end = std::min(share, all_.end)};
    const RawSweep sweep =
        sweep_direct(file_, part,
                     {.memory_bytes = kReadMemoryBytes,
                      .rounds = options_.rounds,
                      .run = cold(),
                      .after_run = progress_of(options_, "disk, ways to read", part.bytes())});
    for (const auto& [reading, seconds] : sweep.timings) {
      rates_.direct_sweep.push_back(rate_of(part.bytes(), seconds, describe(reading)));
    }
    best_direct_ = sweep.timings.front().reading;
  } catch (const Error& error) {
    if (error.cause() != std::errc::invalid_argument) throw;  // what O_DIRECT says where it is not to be had
    rates_.disk_direct = refused(error.what());
  }

  void measure_cold() {
    std::vector<RawReading> readings(kBufferedReadings.begin(), kBufferedReadings.end());
    if (best_direct_) readings.push_back(*best_direct_);
    std::vector<TimedRun> runs;
    for (const RawReading& reading : readings) runs.push_back(raw_run(file_, {all_}, reading, cold()));
    const auto seconds = take_turns(runs, options_.rounds, progress_of(options_, "disk", all_.bytes()));
    for (std::size_t i = 0; i < readings.size(); ++i) {
      LinkRate& rate = readings[i].direct ? rates_.disk_direct : rates_.disk_buffered;
      LinkRate measured = rate_of(all_.bytes(), seconds[i], describe(readings[i]));
      if (measured.bytes_per_second > rate.bytes_per_second) rate = std::move(measured);
    }
  }

  void measure_warm() {
    const std::string refusal = warm_up();
    if (!refusal.empty()) {
      rates_.page_cache = rates_.page_cache_one_thread = refused(refusal);
      return;
    }
    const RawSweep sweep =
        sweep_cached(file_, all_,
                     {.memory_bytes = kReadMemoryBytes,
                      .rounds = options_.rounds,
                      .run = {.prepare = [this] { make_warm(file_); }, .stop = options_.stop},
                      .after_run = progress_of(options_, "page cache", all_.bytes())});
    const auto rate = [&](const RawTiming& timing) {
      return rate_of(all_.bytes(), timing.seconds, describe(timing.reading));
    };
    rates_.page_cache = rate(sweep.timings.front());
    rates_.page_cache_one_thread = rate(*std::ranges::find(
        sweep.timings, 1u, [](const RawTiming& timing) { return timing.reading.parallel; }));
  }

  /// Why not all of the file is in the page cache; empty: it is.
  std::string warm_up() const {
    const MemoryRoom room = host_memory_room();
    if (room.bytes < all_.bytes()) {
      return fmt::format("{} leaves {} for a file of {}", room.limited_by, format_bytes(room.bytes),
                         format_bytes(all_.bytes()));
    }
    return try_make_warm(file_) ? "" : "the page cache does not keep all of the file";
  }

  RawRunOptions cold() const {
    return {.prepare = [this] { make_cold(file_); }, .stop = options_.stop};
  }

  const std::string& file_;
  const LinkProbeOptions& options_;
  ByteRange all_;
  std::optional<RawReading> best_direct_;
  StorageRates rates_;
};

/// Files cut into pieces of one size, handed out over and over.
class Pieces {
 public:
  /// Rests that make no piece are left out.
  explicit Pieces(std::span<const std::string> files) {
    std::vector<std::uint64_t> sizes;
    for (const std::string& file : files) sizes.push_back(bytes_of(file));
    bytes_ = sizes.empty() ? 0 : std::min(kPieceBytes, *std::ranges::max_element(sizes));
    if (bytes_ == 0) return;
    for (std::size_t i = 0; i < files.size(); ++i) {
      for (std::uint64_t begin = 0; begin + bytes_ <= sizes[i]; begin += bytes_) {
        pieces_.push_back({&files[i], {begin, begin + bytes_}});
      }
    }
  }

  std::uint64_t bytes() const noexcept { return bytes_; }
  double read_next(const RawReading& reading, const std::stop_token& stop) {
    const auto& [file, range] = pieces_[next_++ % pieces_.size()];
    return RawReader(*file, reading).read(range, stop);
  }

 private:
  std::uint64_t bytes_ = 0;
  std::vector<std::pair<const std::string*, ByteRange>> pieces_;
  std::size_t next_ = 0;
};

/// Memory on both sides of a device's link.
class DeviceProbe {
 public:
  DeviceProbe(Device& device, std::uint64_t bytes)
      : device_(device),
        host_(bytes),
        memory_(device.allocate(bytes)),
        begin_(device.make_timed_event()),
        end_(device.make_timed_event()),
        queue_(device.make_copy_queue({})) {
    registration_ = device_.register_host(host_.span(), refusal_);
  }

  /// Why copies start from memory that is not registered; empty: it is.
  const std::string& refusal() const noexcept { return refusal_; }

  double upload() {
    queue_->record(*begin_);
    queue_->copy(memory_.data(), host_.span().data(), memory_.bytes());
    queue_->record(*end_);
    return elapsed_seconds();
  }

  double download() {
    begin_->record(Stream{});
    device_.download(host_.span(), memory_.data(), Stream{});
    end_->record(Stream{});
    return elapsed_seconds();
  }

  double register_again() {
    registration_ = {};
    const double seconds = seconds_of([&] { registration_ = device_.register_host(host_.span(), refusal_); });
    if (!registration_) throw Error(Errc::kDeviceFailed, "registering memory again: " + refusal_);
    return seconds;
  }

 private:
  double elapsed_seconds() const {
    return std::chrono::duration<double>(end_->elapsed_since(*begin_)).count();
  }

  Device& device_;
  HostMemory host_;
  HostRegistration registration_;
  std::string refusal_;
  DeviceMemory memory_;
  std::unique_ptr<Event> begin_;
  std::unique_ptr<Event> end_;
  std::unique_ptr<CopyQueue> queue_;  // last: its end waits for copies
};

/// Leaves most of the memory that there is to others: the host has to hold both sides where it is the device.
std::uint64_t copy_bytes(Device& device, std::uint64_t wanted) {
  const std::uint64_t room = std::min(host_memory_room().bytes, device.memory_room().bytes);
  return std::max(std::min(wanted, room / 4) / kPageBytes * kPageBytes, kPageBytes);
}

}  // namespace

double StorageRates::disk() const {
  return std::max(disk_direct.bytes_per_second, disk_buffered.bytes_per_second);
}

StorageRates probe_storage(const std::string& file, const LinkProbeOptions& options) {
  return StorageProbe(file, options).measure();
}

LinkRate probe_reads(std::span<const std::string> files, const LinkProbeOptions& options) try {
  Pieces pieces(files);
  if (pieces.bytes() == 0) return refused("there is nothing to read");
  std::vector<TimedRun> runs;
  std::vector<std::string> ways;
  for (const RawReading& reading : kQuickReadings) {
    if (!RawReader::available(reading)) continue;
    runs.push_back([&pieces, reading, &options] { return pieces.read_next(reading, options.stop); });
    ways.push_back(describe(reading));
  }
  double round_seconds = 0;
  for (const TimedRun& run : runs) round_seconds += run();
  const auto rounds =
      static_cast<unsigned>(std::clamp(kReadSeconds / round_seconds, 1.0, static_cast<double>(kMostRounds)));
  const auto seconds = take_turns(runs, rounds, progress_of(options, "disk", pieces.bytes()));
  LinkRate best;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    LinkRate rate = rate_of(pieces.bytes(), seconds[i], ways[i]);
    if (rate.bytes_per_second > best.bytes_per_second) best = std::move(rate);
  }
  return best;
} catch (const Error& error) {
  if (error.cause() != std::errc::invalid_argument) throw;  // what O_DIRECT says where it is not to be had
  return refused(error.what());
}

DeviceRates probe_device(Device& device, const LinkProbeOptions& options) {
  const std::uint64_t bytes = copy_bytes(device, options.copy_bytes);
  DeviceProbe probe(device, bytes);
  const bool is_host = device.traits().is_host;
  const bool registers = !is_host && probe.refusal().empty();
  std::vector<TimedRun> runs = {[&] { return probe.upload(); }, [&] { return probe.download(); }};
  if (registers) runs.push_back([&] { return probe.register_again(); });
  for (const TimedRun& run : runs) run();  // what the first of a kind has to set up is not the link's
  const auto seconds = take_turns(runs, options.rounds, progress_of(options, "device", bytes));

  const std::string size = format_bytes(bytes);
  const std::string how = is_host ? "memcpy of " + size + " by one thread"
                                  : size + (registers ? " a copy, pinned" : " a copy, pageable");
  DeviceRates rates;
  rates.host_to_device = rate_of(bytes, seconds[0], how);
  rates.device_to_host = rate_of(bytes, seconds[1], how);
  if (registers) {
    rates.registration = rate_of(bytes, seconds[2], size + " at once");
  } else {
    rates.registration =
        refused(is_host ? "the " + device.traits().name + " device needs none" : probe.refusal());
  }
  return rates;
}

}  // namespace tierstream
