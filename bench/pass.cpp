// How close does a whole pass over a checkpoint, on the CPU device, come to the best raw reading of the same
// bytes, cold and warm, with reads landing in slots and through a ring of 64 MiB? And how soon after the
// start is the first layer ready?

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "bench/bench_checkpoint.h"
#include "bench/comparison.h"
#include "tools/page_cache.h"

namespace tierstream {
namespace {

constexpr std::uint32_t kLayers = 32;
constexpr std::uint32_t kSlots = 3;
constexpr std::uint64_t kRingBytes = 64u << 20;

struct Case {
  const char* name;
  bool cold;
  bool lands;
};
constexpr std::array kCases = {
    Case{"cache:cold/landing", true, true},
    Case{"cache:cold/ring", true, false},
    Case{"cache:warm/landing", false, true},
    Case{"cache:warm/ring", false, false},
};

Streamer make_streamer(const BenchCheckpoint& checkpoint, const Case& how) {
  const LayerTable table = checkpoint.layers({.cache = how.cold ? CacheUse::kDirect : CacheUse::kBuffered});
  const std::shared_ptr<Device> device = make_cpu_device({.reads_land = how.lands});
  constexpr Budget kPlenty{.gpu = std::uint64_t{1} << 62, .pinned = kRingBytes};
  const Plan plan = make_plan(table, kPlenty, {}, {.reads_land = how.lands});
  return {
      table,
      {.device = device,
       .budget = {.gpu = plan.outside.slot_bytes + kSlots * plan.largest_slot_bytes, .pinned = kRingBytes},
       .max_slots = kSlots}};
}

std::string describe(Streamer& streamer) {
  const Plan& plan = streamer.plan();
  return fmt::format("{}, {} slots of {}, ring {}", describe(streamer.storage_path()), plan.slots,
                     format_bytes(plan.slot_bytes), format_bytes(plan.ring.bytes()));
}

/// A pass that ends with nothing staged beyond it, so that the next one starts from nothing.
void walk(Streamer& streamer) {
  for (const Lease& layer : streamer.pass({.last = true})) benchmark::DoNotOptimize(layer.slot());
}

/// Seconds of such a pass; throws Error kInternal unless it read each of its bytes once.
double time_walk(Streamer& streamer) {
  const double seconds = seconds_of([&] { walk(streamer); });
  const PassStats pass = streamer.stats().last_pass;
  const std::uint64_t expected_bytes = streamer.plan().disk_bytes;
  if (pass.bytes.disk != expected_bytes || pass.unused_bytes != 0) {
    throw Error(Errc::kInternal, "the pass did not read each of its bytes once",
                {.expected_bytes = expected_bytes, .actual_bytes = pass.bytes.disk + pass.unused_bytes});
  }
  return seconds;
}

void measure_pass(benchmark::State& state, const BenchCheckpoint& checkpoint, const Case& how,
                  std::span<const RawReading> readings) {
  const std::string& file = checkpoint.file();
  const auto prepare = [&] { how.cold ? make_cold(file) : make_warm(file); };
  std::string label;
  const auto run = [&] {
    Streamer streamer = make_streamer(checkpoint, how);
    walk(streamer);  // takes the layers that are staged while nobody measures
    prepare();
    const double seconds = time_walk(streamer);
    if (how.cold) check_cold(file);
    label = describe(streamer);
    return seconds;
  };
  const ByteRange range = range_of(checkpoint.layers({}));
  const auto ceilings = raw_ceilings(file, range, readings, prepare);
  const std::string ceiling = compare(state, range.bytes(), run, ceilings);
  state.SetLabel(
      fmt::format("{}{}; ceiling {}", label, how.cold ? ", no page cached afterwards" : "", ceiling));
}

/// From the streamer's construction, which makes all memory, to the first layer's lease.
void measure_first_layer(benchmark::State& state, const BenchCheckpoint& checkpoint, const Case& how,
                         std::span<const RawReading> readings) {
  const std::string& file = checkpoint.file();
  std::string label;
  std::vector<double> construction_ms;
  const auto run = [&] {
    make_cold(file);
    std::optional<Streamer> streamer;
    const double constructed = seconds_of([&] { streamer.emplace(make_streamer(checkpoint, how)); });
    const double acquired = seconds_of([&] { streamer->acquire(0); });
    construction_ms.push_back(constructed * 1e3);
    label = describe(*streamer);
    return constructed + acquired;
  };
  const ByteRange range = range_of(checkpoint.layers({}).layers.front());
  const auto ceilings = raw_ceilings(file, range, readings, [&] { make_cold(file); });
  const std::string ceiling = compare(state, range.bytes(), run, ceilings);
  state.counters["construction_ms"] = quantile(construction_ms, 0.5);
  state.SetLabel(label + "; ceiling " + ceiling);
}

void add_benchmarks(BenchProgram& program, const BenchCheckpoint& checkpoint) {
  const std::string& file = checkpoint.file();
  const ByteRange range = range_of(checkpoint.layers({}));
  const std::uint64_t memory_bytes = range.bytes() / kLayers * kSlots;  // the slots
  make_warm(file);
  const RawSweep warm = sweep_cached(file, range, {.memory_bytes = memory_bytes});
  make_cold(file);
  const RawSweep cold = sweep_direct(file, range, {.memory_bytes = memory_bytes});
  benchmark::AddCustomContext("raw readings, cold", describe(cold));
  benchmark::AddCustomContext("raw readings, warm", describe(warm));
  for (const Case& how : kCases) {
    const std::vector<RawReading> readings = best_of_each_way(how.cold ? cold : warm);
    program.add(fmt::format("pass/{}", how.name),
                [&, readings](benchmark::State& state) { measure_pass(state, checkpoint, how, readings); });
    if (!how.cold) continue;
    program.add(fmt::format("first_layer/{}", how.name), [&, readings](benchmark::State& state) {
      measure_first_layer(state, checkpoint, how, readings);
    });
  }
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("How close does a pass over a checkpoint come to the best raw reading of its bytes?");
  const FileOptions options(program, std::uint64_t{2} << 30);
  std::optional<BenchCheckpoint> checkpoint;
  return program.run(argc, argv, [&] {
    checkpoint.emplace(options, kLayers);
    add_benchmarks(program, *checkpoint);
  });
}
