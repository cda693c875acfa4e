#include "bench/llama_work.h"

#include <ATen/ATen.h>
#include <tierstream/io/error.h>

#include "tools/timing.h"

namespace tierstream {

llama::LlamaFiles open_llama(const BenchCheckpoint& checkpoint, const SyntheticSpec& spec,
                             const StorageOptions& storage) {
  const auto hidden = static_cast<std::int64_t>(spec.hidden);
  llama::LlamaConfig config{.vocabulary_size = static_cast<std::int64_t>(spec.vocabulary),
                            .hidden_size = hidden,
                            .intermediate_size = static_cast<std::int64_t>(spec.intermediate),
                            .layers = spec.layers,
                            .heads = 32,
                            .key_value_heads = 8,
                            .head_size = hidden / 32};
  config.windows.assign(spec.layers, 0);
  return {config, Checkpoint::open(checkpoint.directory(), storage), at::kBFloat16};
}

LlamaWork::LlamaWork(const char* name, const llama::LlamaFiles& files, std::int64_t tokens,
                     std::int64_t before, llama::LlamaRun& plain, at::Device device)
    : name_(name),
      ids_((at::arange(tokens) % 50).to(device)),
      before_(files.config, before + tokens, at::TensorOptions(at::kBFloat16).device(device)) {
  if (before > 0) plain.forward((at::arange(before) % 70).to(device), before_, 1);
  expected_ = run(plain);
}

at::Tensor LlamaWork::run(llama::LlamaRun& weights) const {
  llama::KvCache cache = before_;  // shares its memory: each run writes the same places
  return weights.forward(ids_, cache, 1).cpu();
}

double LlamaWork::time(llama::LlamaRun& weights) const {
  at::Tensor logits;
  const double seconds = seconds_of([&] { logits = run(weights); });
  if (!at::equal(logits, expected_)) {
    throw Error(Errc::kInternal, "the logits are not those of plain LibTorch");
  }
  return seconds;
}

}  // namespace tierstream
