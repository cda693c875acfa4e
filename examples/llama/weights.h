#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/adapters/torch/streamed_model.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "llama/llama.h"

namespace tierstream::llama {

/// A Hugging Face directory of config.json and safetensors, opened: no weight has been read.
struct LlamaFiles {
  LlamaConfig config;
  Checkpoint checkpoint;
  at::ScalarType dtype;  ///< of the weights, and of the computing

  /// Throws Error: those of LlamaConfig and Checkpoint; kWeightMismatch when they have not the same layers;
  /// of the embeddings, whose dtype counts, kTensorMissing, and kUnknownDType when it is neither float32,
  /// float16 nor bfloat16.
  static LlamaFiles open(const std::string& directory);

  /// The layers, and what lies outside them, without tensors that the model has no use for.
  LayerTable table() const;
};

/// All weights in ordinary memory of the device. Throws what load_plainly throws.
Llama load_llama(const LlamaFiles& files, at::Device device);

/// A model that runs from wherever its weights are. Threads: one at a time.
class LlamaRun {
 public:
  virtual ~LlamaRun() = default;
  /// Of LlamaImpl::forward, in inference mode.
  virtual at::Tensor forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows) = 0;
};

/// Plain LibTorch: no part of the streaming takes part.
class ResidentLlama : public LlamaRun {
 public:
  /// Of a model whose weights someone has loaded.
  explicit ResidentLlama(Llama loaded);
  ResidentLlama(const LlamaFiles& files, at::Device device) : ResidentLlama(load_llama(files, device)) {}
  at::Tensor forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows) override;

 private:
  Llama model_;
  std::vector<std::shared_ptr<LlamaLayerImpl>> layers_;
};

/// The layers' weights streamed within the budgets of `options`.
class StreamedLlama : public LlamaRun {
 public:
  /// Throws what `stream` throws.
  StreamedLlama(const LlamaFiles& files, StreamerOptions options);
  /// Of a model whose weights someone has loaded: they are streamed from where they lie.
  StreamedLlama(Llama loaded, StreamerOptions options);
  at::Tensor forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows) override;

  /// As StreamedModel does it. Its names are those of the checkpoint's weights.
  ModelBinding::LoraId add_lora(const Lora& lora, double strength) {
    return streamed_.add_lora(lora, strength);
  }
  void remove_lora(ModelBinding::LoraId id) { streamed_.remove_lora(id); }

  const Streamer& streamer() const noexcept { return streamed_.streamer(); }
  /// That would do, with the LoRAs that there are.
  Budget least_budget() const;
  /// Of the gpu budget, beside what the streamer has: LoRAs, and memory for what they change.
  std::uint64_t kept_bytes() const;

 private:
  Llama model_;
  StreamedModel streamed_;
};

}  // namespace tierstream::llama
