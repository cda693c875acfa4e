// What does a pass take when the page-cache tier keeps none, a quarter, half, three quarters, all of the
// model, beside the plan's bound and prediction? And where a model is 1.5 times the memory there is, beside
// the kernel's own page cache: an mmap walk of the file, and plain buffered pread?

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <tierstream/io/cached_pages.h>
#include <tierstream/io/error.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/bench_checkpoint.h"
#include "bench/comparison.h"
#include "tools/memory_cgroup.h"
#include "tools/page_cache.h"
#include "tools/timing.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint32_t kLayers = 24;
constexpr std::uint32_t kSlots = 3;
constexpr std::uint64_t kRingBytes = 16 * kMiB;
/// What the program may need beside its budgets; under a memory limit it stays free.
constexpr std::uint64_t kOverheadBytes = 32 * kMiB;
constexpr double kModelOverLimit = 1.5;
constexpr std::array kShares = {0.0, 0.25, 0.5, 0.75, 1.0};

/// Bytes that this process, and whatever read ahead for it, took from a disk. Zero where Linux does not
/// count.
std::uint64_t disk_bytes_so_far() {
  std::ifstream counters("/proc/self/io");
  std::uint64_t bytes = 0;
  for (std::string name; counters >> name >> bytes;) {
    if (name == "read_bytes:") return bytes;
  }
  return 0;
}

/// One byte of each page: all is there.
void touch(const std::byte* data, std::uint64_t bytes) {
  for (std::uint64_t at = 0; at < bytes; at += kPageBytes) {
    std::byte value = static_cast<const volatile std::byte*>(data)[at];
    benchmark::DoNotOptimize(value);
  }
}

/// Open for reading; its end closes it.
class OpenFile {
 public:
  explicit OpenFile(const std::string& path)
      : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail("open");
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { ::close(descriptor_); }

  int descriptor() const { return descriptor_; }
  [[noreturn]] void fail(const char* call) const {
    throw Error(Errc::kReadFailed, fmt::format("{} failed", call), {.file = path_},
                {errno, std::generic_category()});
  }

 private:
  std::string path_;
  int descriptor_;
};

LayerTable layers_of(const BenchCheckpoint& checkpoint) {
  return checkpoint.layers({.cache = CacheUse::kDirect});
}

Plan plan_for(const LayerTable& table, const Budget& budget) {
  return make_plan(table, budget, {},
                   {.reads_land = true, .is_host = true, .max_slots = kSlots, .layer_seconds = {}});
}

/// Room for the slots that a pass takes which streams everything, and no resident.
Budget budget_for(const LayerTable& table, std::uint64_t page_cache_bytes) {
  Budget budget{.gpu = std::uint64_t{1} << 62, .pinned = kRingBytes};
  const Plan plan = plan_for(table, budget);
  budget.gpu = plan.outside.slot_bytes + kSlots * plan.largest_slot_bytes;
  budget.page_cache = page_cache_bytes;
  return budget;
}

/// One of those who walk over all layers' bytes.
class Walker {
 public:
  virtual ~Walker() = default;
  virtual void walk() = 0;
};

class StreamedWalk final : public Walker {
 public:
  /// `touches`: a byte of each page, as the other walkers do, not only leases all layers.
  StreamedWalk(const BenchCheckpoint& checkpoint, std::uint64_t page_cache_bytes, bool touches = false)
      : file_(checkpoint.file()),
        bytes_(checkpoint.bytes()),
        touches_(touches),
        streamer_(make(checkpoint, page_cache_bytes)) {}

  /// Ends with nothing staged beyond it, so that the next pass begins with the tiers alone.
  void walk() override {
    for (const Lease& layer : streamer_.pass({.last = true})) {
      for (std::size_t i = 0; i < layer.size(); ++i) {
        TensorView tensor = layer.tensor(i);
        touches_ ? touch(tensor.data, tensor.spec->bytes) : benchmark::DoNotOptimize(tensor.data);
      }
    }
  }

  /// Seconds of a steady pass. Throws Error kInternal unless it read what the plan said.
  double timed_walk() {
    const double seconds = seconds_of([&] { walk(); });
    const PassStats pass = streamer_.stats().last_pass;
    if (pass.bytes.disk != plan().disk_bytes || pass.unused_bytes != 0) {
      throw Error(Errc::kInternal, "the pass did not read what the plan said",
                  {.expected_bytes = plan().disk_bytes, .actual_bytes = pass.bytes.disk + pass.unused_bytes});
    }
    return seconds;
  }
  /// Throws Error kInternal unless of the file just those pages are cached that the tier keeps.
  void check_cached() const {
    const std::uint64_t kept = (plan().kept.bytes() + kPageBytes - 1) / kPageBytes;
    const std::optional<CachedPages> pages = cached_pages(file_.descriptor(), 0, bytes_);
    if (pages && pages->cached == kept) return;
    throw Error(Errc::kInternal,
                fmt::format("{} pages are cached, {} are kept", pages ? pages->cached : 0, kept));
  }

  const Plan& plan() const { return streamer_.plan(); }
  std::string path() const { return describe(streamer_.storage_path()); }

 private:
  static Streamer make(const BenchCheckpoint& checkpoint, std::uint64_t page_cache_bytes) {
    const LayerTable table = layers_of(checkpoint);
    return {
        table,
        {.device = make_cpu_device(), .budget = budget_for(table, page_cache_bytes), .max_slots = kSlots}};
  }

  OpenFile file_;
  std::uint64_t bytes_;
  bool touches_;
  Streamer streamer_;
};

/// Maps the file whole, as long as the walks go on.
class MappedWalk final : public Walker {
 public:
  explicit MappedWalk(const BenchCheckpoint& checkpoint)
      : file_(checkpoint.file()), bytes_(checkpoint.bytes()) {
    mapping_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file_.descriptor(), 0);
    if (mapping_ == MAP_FAILED) file_.fail("mmap");
  }
  ~MappedWalk() override { ::munmap(mapping_, bytes_); }

  void walk() override { touch(static_cast<const std::byte*>(mapping_), bytes_); }

 private:
  OpenFile file_;
  std::uint64_t bytes_;
  void* mapping_;
};

/// Reads 1 MiB a call, into memory for one layer.
class PreadWalk final : public Walker {
 public:
  explicit PreadWalk(const BenchCheckpoint& checkpoint)
      : file_(checkpoint.file()),
        bytes_(checkpoint.bytes()),
        layer_(std::max(bytes_ / kLayers / kMiB, std::uint64_t{1}) * kMiB) {}

  void walk() override {
    for (std::uint64_t offset = 0; offset < bytes_; offset += kMiB) {
      const std::uint64_t bytes = std::min(kMiB, bytes_ - offset);
      const ssize_t count = ::pread(file_.descriptor(), layer_.data() + offset % layer_.size(), bytes,
                                    static_cast<off_t>(offset));
      if (count != static_cast<ssize_t>(bytes)) file_.fail("pread");
    }
  }

 private:
  OpenFile file_;
  std::uint64_t bytes_;
  std::vector<std::byte> layer_;
};

TimedRun raw_reading_of(const BenchCheckpoint& checkpoint, const RawReading& reading, const Plan& plan) {
  return raw_run(checkpoint.file(), ranges_read(checkpoint, plan), reading);
}

// --- The curve of budgets ---

void measure_budget(benchmark::State& state, const BenchCheckpoint& checkpoint, double share,
                    const RawReading& reading) {
  make_cold(checkpoint.file());
  StreamedWalk all(checkpoint, 0);
  all.walk();
  all.check_cached();
  StreamedWalk kept(checkpoint, static_cast<std::uint64_t>(share * static_cast<double>(checkpoint.bytes())));
  const double first_seconds = seconds_of([&] { kept.walk(); });
  const Plan& plan = kept.plan();
  const TimedRun raw = raw_reading_of(checkpoint, reading, plan);

  std::vector<double> pass_ms;
  std::vector<double> bound_ms;
  std::vector<double> efficiency;
  std::vector<double> of_prediction;
  std::vector<double> of_all;
  const auto kept_beside_raw = [&] {
    const double seconds = kept.timed_walk();
    kept.check_cached();
    pass_ms.push_back(seconds * 1e3);
    if (plan.disk_bytes == 0) return seconds;
    const double raw_seconds = raw();
    const double rate = static_cast<double>(plan.disk_bytes) / raw_seconds;
    bound_ms.push_back(raw_seconds * 1e3);
    efficiency.push_back(raw_seconds / seconds);
    of_prediction.push_back(seconds / predict_seconds(plan, {.disk = rate}, {}));
    return seconds;
  };
  for ([[maybe_unused]] auto iteration : state) {
    const double before = kept_beside_raw();
    const double all_seconds = all.timed_walk();
    const double after = kept_beside_raw();
    of_all.push_back((before + after) / 2 / all_seconds);
    state.SetIterationTime((before + after) / 2);
  }
  state.counters["first_ms"] = first_seconds * 1e3;
  state.counters["ms"] = quantile(pass_ms, 0.5);
  state.counters["disk_MiB"] = static_cast<double>(plan.disk_bytes) / kMiB;
  report(state, "of_all", of_all);
  if (plan.disk_bytes == 0) {
    state.counters["us_a_layer"] = quantile(pass_ms, 0.5) * 1e3 / kLayers;
  } else {
    state.counters["bound_ms"] = quantile(bound_ms, 0.5);
    report(state, "efficiency", efficiency);
    report(state, "of_prediction", of_prediction);
  }
  state.SetLabel(fmt::format("{}, {} of {} kept; bound {}; only kept pages cached", kept.path(),
                             format_bytes(plan.used.page_cache), format_bytes(checkpoint.bytes()),
                             describe(reading)));
}

// --- Under a memory limit ---

/// Walks from a cold file, in a memory cgroup of its own.
class LimitedWalk {
 public:
  LimitedWalk(std::string name, std::function<std::unique_ptr<Walker>()> make)
      : name_(std::move(name)), make_(std::move(make)) {}

  /// The second pass: the first brings each cache to its steady state.
  double run(const BenchCheckpoint& checkpoint, std::uint64_t limit_bytes) {
    make_cold(checkpoint.file());
    MemoryCgroup cgroup(limit_bytes);
    if (!cgroup.refusal().empty()) throw Error(Errc::kInternal, cgroup.refusal());
    cgroup.enter();
    const std::unique_ptr<Walker> walker = make_();
    walker->walk();
    const std::uint64_t before = disk_bytes_so_far();
    const double seconds = seconds_of([&] { walker->walk(); });
    disk_MiB_.push_back(static_cast<double>(disk_bytes_so_far() - before) / kMiB);
    milliseconds_.push_back(seconds * 1e3);
    return seconds;
  }

  void report(benchmark::State& state) const {
    state.counters[name_ + "_ms"] = quantile(milliseconds_, 0.5);
    state.counters[name_ + "_disk_MiB"] = quantile(disk_MiB_, 0.5);
  }

 private:
  std::string name_;
  std::function<std::unique_ptr<Walker>()> make_;
  std::vector<double> milliseconds_;
  std::vector<double> disk_MiB_;
};

std::uint64_t limit_for(const BenchCheckpoint& checkpoint) {
  return static_cast<std::uint64_t>(static_cast<double>(checkpoint.bytes()) / kModelOverLimit) / kPageBytes *
         kPageBytes;
}

void measure_limited(benchmark::State& state, const BenchCheckpoint& checkpoint, const RawReading& reading) {
  const std::uint64_t limit = limit_for(checkpoint);
  const LayerTable table = layers_of(checkpoint);
  const std::uint64_t rest = budget_for(table, 0).gpu + kRingBytes + kOverheadBytes;
  const std::uint64_t page_cache = limit - std::min(limit, rest);
  const Plan plan = plan_for(table, budget_for(table, page_cache));
  LimitedWalk streamed("streamed",
                       [&] { return std::make_unique<StreamedWalk>(checkpoint, page_cache, true); });
  LimitedWalk mapped("mmap", [&] { return std::make_unique<MappedWalk>(checkpoint); });
  LimitedWalk read("pread", [&] { return std::make_unique<PreadWalk>(checkpoint); });
  const TimedRun raw = raw_reading_of(checkpoint, reading, plan);

  std::vector<double> efficiency;
  std::vector<double> over_mmap;
  std::vector<double> over_pread;
  bool streamed_first = false;
  for ([[maybe_unused]] auto iteration : state) {
    streamed_first = !streamed_first;
    double mapped_seconds = streamed_first ? 0 : mapped.run(checkpoint, limit);
    const double seconds = streamed.run(checkpoint, limit);
    efficiency.push_back(raw() / seconds);
    if (streamed_first) mapped_seconds = mapped.run(checkpoint, limit);
    over_mmap.push_back(mapped_seconds / seconds);
    over_pread.push_back(read.run(checkpoint, limit) / seconds);
    state.SetIterationTime(seconds);
  }
  for (const LimitedWalk* walk : {&streamed, &mapped, &read}) walk->report(state);
  state.counters["file_less_budget_MiB"] = static_cast<double>(checkpoint.bytes() - page_cache) / kMiB;
  report(state, "efficiency", efficiency);
  report(state, "speedup_over_mmap", over_mmap);
  report(state, "speedup_over_pread", over_pread);
  state.SetLabel(fmt::format("limit {}, file {}, budgets gpu {}, pinned {}, page_cache {}; bound {}",
                             format_bytes(limit), format_bytes(checkpoint.bytes()),
                             format_bytes(plan.used.gpu), format_bytes(kRingBytes), format_bytes(page_cache),
                             describe(reading)));
}

void add_benchmarks(BenchProgram& program, const BenchCheckpoint& checkpoint) {
  const ByteRange range = range_of(checkpoint.layers({}));
  make_cold(checkpoint.file());
  const RawSweep sweep = sweep_direct(checkpoint.file(), range,
                                      {.memory_bytes = range.bytes() / kLayers * kSlots});  // as the slots
  benchmark::AddCustomContext("raw readings", describe(sweep));
  const RawReading best = sweep.timings.front().reading;
  for (const double share : kShares) {
    program.add(fmt::format("page_cache/share:{}", share),
                [&checkpoint, share, best](benchmark::State& state) {
                  measure_budget(state, checkpoint, share, best);
                });
  }
  if (const MemoryCgroup probe(limit_for(checkpoint)); !probe.refusal().empty()) {
    benchmark::AddCustomContext("limited, skipped", probe.refusal());
    return;
  }
  program.add("page_cache/limited",
              [&checkpoint, best](benchmark::State& state) { measure_limited(state, checkpoint, best); });
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program(
      "What does a pass take by the page-cache tier's share of the model, and beside the kernel's own "
      "cache?");
  const FileOptions options(program, 1536 * kMiB);
  std::optional<BenchCheckpoint> checkpoint;
  return program.run(argc, argv, [&] {
    checkpoint.emplace(options, kLayers);
    add_benchmarks(program, *checkpoint);
  });
}
