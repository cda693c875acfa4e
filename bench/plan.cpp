// How long does it take to make a plan for a large model - 1,000 layers of 20 tensors - beside the 5 ms that
// it may take?

#include <fmt/format.h>
#include <tierstream/tiers/plan.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/bench_program.h"
#include "bench/comparison.h"
#include "tools/timing.h"

namespace tierstream {
namespace {

constexpr std::uint32_t kLayers = 1000;
constexpr std::uint32_t kTensors = 20;
constexpr std::uint64_t kMiB = 1u << 20;
constexpr double kTargetSeconds = 5e-3;

/// Layers of about 64 MiB in files of 50 layers each. Sizes and offsets are those of real tensors: large and
/// tiny ones in turn, at multiples of 64.
LayerTable make_table() {
  constexpr std::uint32_t kLayersPerFile = 50;
  constexpr std::uint64_t kLargeBytes = 13 * kMiB / 2;
  constexpr std::uint64_t kSmallBytes = 8320;
  LayerTable table;
  for (std::uint32_t i = 0; i < kLayers; ++i) {
    if (i % kLayersPerFile == 0) {
      table.files.push_back(
          {fmt::format("model-{}.safetensors", table.files.size()),
           {.bytes = 0, .offset_alignment = 4096, .memory_alignment = 4096, .is_local_file = true}});
    }
    const auto file = static_cast<std::uint32_t>(table.files.size() - 1);
    Layer& layer = table.layers.emplace_back(Layer{fmt::format("model.layers.{}", i), {}});
    for (std::uint32_t t = 0; t < kTensors; ++t) {
      const std::uint64_t bytes = t % 2 == 0 ? kLargeBytes : kSmallBytes;
      std::uint64_t& end = table.files.back().info.bytes;
      layer.tensors.push_back({fmt::format("block.{}.weight", t),
                               DType::kBF16,
                               {static_cast<std::int64_t>(bytes / 2)},
                               bytes,
                               FileExtent{file, end}});
      end += bytes;
    }
  }
  return table;
}

struct Case {
  const char* name;
  bool on_host;       ///< where reads land and mapped tensors are used in place
  double resident;    ///< share of the model on the device
  double page_cache;  ///< share of it in the page cache
};
constexpr std::array kCases = {
    Case{"gpu/streamed", false, 0, 0},
    Case{"gpu/resident:0.25", false, 0.25, 0},
    Case{"gpu/page_cache:0.5", false, 0, 0.5},
    Case{"gpu/resident:0.25/page_cache:0.5", false, 0.25, 0.5},
    Case{"host/resident:0.25/page_cache:0.5", true, 0.25, 0.5},
};

void measure(benchmark::State& state, const LayerTable& table, const Case& how) {
  constexpr std::uint32_t kSlots = 3;
  const std::uint64_t layer_bytes = table.layers.front().bytes();
  const auto share = [&](double part) {
    return static_cast<std::uint64_t>(part * kLayers * static_cast<double>(layer_bytes));
  };
  const Budget budget{.gpu = (kSlots + 1) * layer_bytes + share(how.resident),
                      .pinned = 128 * kMiB,
                      .page_cache = share(how.page_cache)};
  const LinkRates rates{.disk = 3e9, .host_to_device = 50e9};
  const PlanOptions options{
      .reads_land = how.on_host, .is_host = how.on_host, .max_slots = kSlots, .layer_seconds = {}};
  Plan plan;
  std::vector<double> milliseconds;
  std::vector<double> ratios;
  for ([[maybe_unused]] auto iteration : state) {
    plan = {};  // its end is not timed
    const double seconds = seconds_of([&] { plan = make_plan(table, budget, rates, options); });
    milliseconds.push_back(seconds * 1e3);
    ratios.push_back(kTargetSeconds / seconds);
    state.SetIterationTime(seconds);
  }
  state.counters["ms"] = quantile(milliseconds, 0.5);
  state.counters["ceiling_ms"] = kTargetSeconds * 1e3;
  report(state, "ratio", ratios);
  state.SetLabel(
      fmt::format("{} layers of {} tensors and {}: {} resident, {} in the page cache, {} read a pass",
                  kLayers, kTensors, format_bytes(layer_bytes), format_bytes(plan.resident_bytes),
                  format_bytes(plan.used.page_cache), format_bytes(plan.disk_bytes)));
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("How long does it take to make a plan for 1,000 layers of 20 tensors?");
  const LayerTable table = make_table();
  return program.run(argc, argv, [&] {
    for (const Case& how : kCases) {
      program.add(fmt::format("plan/{}", how.name),
                  [&](benchmark::State& state) { measure(state, table, how); });
    }
  });
}
