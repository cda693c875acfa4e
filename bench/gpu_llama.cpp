// What does streaming cost a Llama on a GPU: a token, which the link bounds, and a prompt so long that
// computing does? Its weights in the page cache, or in RAM, beside the same model resident.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/tiers/cuda/cuda_device.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bench/bench_checkpoint.h"
#include "bench/comparison.h"
#include "bench/gpu_link.h"
#include "bench/llama_work.h"
#include "tools/page_cache.h"

namespace tierstream {
namespace {

using llama::LlamaFiles;
using llama::ResidentLlama;
using llama::StreamedLlama;

constexpr std::uint64_t kPlenty = std::uint64_t{1} << 62;
constexpr std::uint64_t kRingBytes = 64u << 20;
constexpr std::int64_t kTokensBefore = 128;  // that a single token sees

/// Llama 3 8B's layers, as many as design.md measures with.
SyntheticSpec weights_of(bool quick) {
  if (!quick) return {.layers = 24, .hidden = 4096, .intermediate = 14336};
  return {.layers = 8, .hidden = 1024, .intermediate = 3584};
}

class GpuLlamaBench {
 public:
  GpuLlamaBench(BenchProgram& program, const std::string& directory,
                std::optional<std::int64_t> prompt_tokens)
      : spec_(weights_of(program.quick())),
        checkpoint_(directory, spec_),
        files_(open_llama(checkpoint_, spec_)),
        device_(make_cuda_device(0)),
        link_(*device_) {
    make_warm(checkpoint_.file());
    plain_.emplace(files_, to_torch_device(*device_));
    add_work("token", 1, kTokensBefore);
    add_work("prompt", prompt_tokens.value_or(program.quick() ? 1024 : 16384), 0);
    for (const LlamaWork& work : works_) {
      const auto add = [&](const char* source, auto how) {
        program.add(fmt::format("{}/{}", work.name(), source),
                    [this, &work, how](benchmark::State& state) { (this->*how)(state, work); });
      };
      add("page_cache", &GpuLlamaBench::measure_page_cache);
      add("ram", &GpuLlamaBench::measure_ram);
    }
  }

 private:
  void add_work(const char* name, std::int64_t tokens, std::int64_t before) {
    works_.emplace_back(name, files_, tokens, before, *plain_, to_torch_device(*device_));
  }

  /// Room for what is outside the layers and for the slots, nothing resident.
  StreamerOptions options(Budget host) const {
    const Plan plan = make_plan(files_.table(), {.gpu = kPlenty, .pinned = kRingBytes}, {}, {});
    host.gpu = plan.outside.slot_bytes + 3 * plan.largest_slot_bytes;
    return {.device = device_, .budget = host};
  }

  void measure_page_cache(benchmark::State& state, const LlamaWork& work) {
    StreamedLlama weights(files_, options({.pinned = kRingBytes, .page_cache = checkpoint_.bytes() * 2}));
    measure(state, work, weights);
  }

  void measure_ram(benchmark::State& state, const LlamaWork& work) {
    StreamedLlama weights(llama::load_llama(files_, at::kCPU), options({.pinned = checkpoint_.bytes() * 2}));
    measure(state, work, weights);
  }

  /// The ceiling: the longer of computing with resident weights and copying as many bytes.
  void measure(benchmark::State& state, const LlamaWork& work, StreamedLlama& weights) {
    for (int run = 0; run < 3; ++run) work.time(weights);  // what is registered beside the passes is by then
    const std::uint64_t bytes = weights.streamer().plan().copied_bytes;
    const Part resident{"resident", {"the resident model", [&] { return work.time_steady(*plain_); }}};
    const Part link{"link", link_.ceiling(bytes)};
    const std::string name = compare_with_longer(
        state, bytes, [&] { return work.time_steady(weights); }, resident, link);
    const Streamer& streamer = weights.streamer();
    const Budget& used = streamer.plan().used;
    state.SetLabel(fmt::format(
        "logits bit-equal; {} copied a pass; gpu {}, pinned {}, page_cache {}; "
        "ceiling {} {}{}",
        format_bytes(bytes), format_bytes(used.gpu), format_bytes(used.pinned), format_bytes(used.page_cache),
        name, streamer.page_cache_status().registration_refusal, streamer.ram_weights_status().refusal));
  }

  SyntheticSpec spec_;
  BenchCheckpoint checkpoint_;
  LlamaFiles files_;
  std::shared_ptr<Device> device_;
  GpuLink link_;
  std::optional<ResidentLlama> plain_;
  std::vector<LlamaWork> works_;
};

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("What does streaming cost a Llama on a GPU, by what bounds it?");
  std::string directory = std::filesystem::temp_directory_path().string();
  program.command_line()
      .add_option("--dir", directory, "Where the weights are written for the time")
      ->capture_default_str();
  std::optional<std::int64_t> prompt_tokens;
  program.command_line()
      .add_option("--prompt", prompt_tokens, "Tokens of the prompt; without it 16384, or 1024 when --quick")
      ->check(CLI::PositiveNumber);
  std::optional<GpuLlamaBench> bench;
  return program.run(argc, argv, [&] { bench.emplace(program, directory, prompt_tokens); });
}
