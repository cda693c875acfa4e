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
  /// kUnknownDType when the weights are neither float32, float16 nor bfloat16.
  static LlamaFiles open(const std::string& directory);

  /// The layers, and what lies outside them, without tensors that the model has no use for.
  LayerTable table() const;
};

/// Where a model's weights are. Threads: one at a time.
class LlamaWeights {
 public:
  virtual ~LlamaWeights() = default;
  /// Of LlamaImpl::forward, in inference mode.
  virtual at::Tensor forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows) = 0;
};

/// All of them in ordinary memory of the device: plain LibTorch, no part of the streaming takes part.
class ResidentWeights : public LlamaWeights {
 public:
  /// Throws what load_plainly throws.
  ResidentWeights(const LlamaFiles& files, at::Device device);
  /// Of a model whose weights someone has loaded.
  explicit ResidentWeights(Llama model);
  at::Tensor forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows) override;

 private:
  Llama model_;
  std::vector<std::shared_ptr<LlamaLayerImpl>> layers_;
};

/// Streamed within the budgets of `options`.
class StreamedWeights : public LlamaWeights {
 public:
  /// Throws what `stream` throws.
  StreamedWeights(const LlamaFiles& files, StreamerOptions options);
  at::Tensor forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows) override;

  const Streamer& streamer() const noexcept { return streamed_.streamer(); }

 private:
  Llama model_;
  StreamedModel streamed_;
};

}  // namespace tierstream::llama
