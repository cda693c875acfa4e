// What does the LibTorch adapter cost a layer of 9 tensors, over a bare lease? And does it allocate?

#include <fmt/format.h>
#include <tierstream/adapters/torch/streamed_model.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bench/bench_program.h"
#include "bench/comparison.h"
#include "support/allocations.h"

namespace tierstream {
namespace {

constexpr std::uint32_t kLayers = 32;
constexpr int kTensors = 9;  // of a block of the Llama family
constexpr std::int64_t kWidth = 16;
/// What the adapter may cost a layer.
constexpr double kTargetUs = 20;

struct BlockImpl : torch::nn::Module {
  BlockImpl() {
    for (int i = 0; i < kTensors; ++i) {
      const torch::nn::Linear linear(torch::nn::LinearOptions(kWidth, kWidth).bias(false));
      linears.push_back(register_module("linear" + std::to_string(i), linear));
    }
  }
  std::vector<torch::nn::Linear> linears;
};

struct ModelImpl : torch::nn::Module {
  ModelImpl() {
    torch::nn::ModuleList layers;
    for (std::uint32_t i = 0; i < kLayers; ++i) layers->push_back(std::make_shared<BlockImpl>());
    register_module("layers", layers);
  }
};

struct Case {
  const char* name;
  bool in_slots;  ///< each layer stays in a slot of its own; else among what is resident on the device
};
constexpr std::array kCases = {Case{"slots", true}, Case{"resident", false}};

/// Layers that are ready whenever they are asked for, so that nothing is measured but the leases.
StreamedModel stream_ready(ModelImpl& model, const Case& how) {
  constexpr std::uint64_t kAmple = 64u << 20;
  StreamerOptions streaming{.budget = {.gpu = kAmple, .pinned = 16u << 20}, .max_slots = 1};
  if (!how.in_slots) return stream(model, "layers", {.streaming = streaming});
  streaming.max_slots = kLayers;
  streaming.budget.gpu = kLayers * 12'288;
  return stream(model, "layers", {.streaming = streaming});
}

double us_per_layer(const std::function<void()>& pass) {
  constexpr int kPasses = 200;
  const double seconds = seconds_of([&] {
    for (int i = 0; i < kPasses; ++i) pass();
  });
  return seconds * 1e6 / (kPasses * kLayers);
}

void measure(benchmark::State& state, const Case& how) {
  auto model = std::make_shared<ModelImpl>();
  const StreamedModel streamed = stream_ready(*model, how);
  Streamer& streamer = streamed.streamer();
  const auto layers = streamed.layers<BlockImpl>();
  std::size_t allocations = 0;
  const auto bare_pass = [&] {
    for (const Lease layer : streamer.pass()) benchmark::DoNotOptimize(layer.tensor(0).data);
  };
  const auto adapter_pass = [&] {
    std::size_t first = 0;
    for (auto&& layer : layers) {
      if (layer.index() == 0) first = allocations_of_this_thread();
      allocations = allocations_of_this_thread() - first;
    }
  };
  for (int i = 0; i < 3; ++i) adapter_pass();

  std::vector<double> lease_us;
  std::vector<double> adapter_us;
  std::vector<double> cost_us;
  for ([[maybe_unused]] auto iteration : state) {
    const double before = us_per_layer(adapter_pass);
    const double bare = (us_per_layer(bare_pass) + us_per_layer(bare_pass)) / 2;
    const double with = (before + us_per_layer(adapter_pass)) / 2;
    lease_us.push_back(bare);
    adapter_us.push_back(with);
    cost_us.push_back(with - bare);
    state.SetIterationTime(with * 1e-6);
  }
  state.counters["lease_us"] = quantile(lease_us, 0.5);
  state.counters["adapter_us"] = quantile(adapter_us, 0.5);
  state.counters["ceiling_us"] = kTargetUs;
  state.counters["allocations"] = static_cast<double>(allocations) / (kLayers - 1);
  report(state, "cost_us", cost_us);
  state.SetLabel(fmt::format("a layer of {} tensors, {} slots", kTensors, streamer.plan().slots));
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("What does the LibTorch adapter cost a layer, over a bare lease?");
  return program.run(argc, argv, [&] {
    for (const Case& how : kCases) {
      program.add(fmt::format("adapter/{}", how.name),
                  [&how](benchmark::State& state) { measure(state, how); });
    }
  });
}
