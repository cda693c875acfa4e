#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "llama/config.h"
#include "llama/kv_cache.h"
#include "llama/rope.h"

namespace tierstream::llama {

// The Llama family for one sequence at a time. Modules and their parameters carry the names of the
// checkpoint. Numerics follow Hugging Face transformers: weights and activations in the checkpoint's dtype,
// root mean squares, softmax and rotary tables in float32.
//
// A module is made without memory for its weights: each is one NaN, expanded to the weight's shape, until
// someone gives it data (`set_data`). So a model of any size can be made.

/// y = x W^T + b. Source: torch.nn.Linear.
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(std::int64_t inputs, std::int64_t outputs, bool with_bias, at::ScalarType dtype);
  /// `x`: [tokens, inputs]; returns [tokens, outputs].
  at::Tensor forward(const at::Tensor& x) const;

 private:
  at::Tensor weight_;
  std::optional<at::Tensor> bias_;
};
TORCH_MODULE(Linear);

/// Scales to a root mean square of 1, then by the weight. Source: Zhang and Sennrich 2019.
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(std::int64_t size, double epsilon, at::ScalarType dtype);
  /// `x`: [tokens, size]; returns the same shape.
  at::Tensor forward(const at::Tensor& x) const;

 private:
  at::Tensor weight_;
  double epsilon_;
};
TORCH_MODULE(RmsNorm);

/// What all layers of one forward pass share.
struct ForwardPass {
  RotaryTables rotary;
  KvCache& cache;
  // What a token sees, [tokens, all tokens so far], true: seen. Undefined: everything before it and itself.
  at::Tensor causal_mask;
  at::Tensor windowed_mask;

  /// For `tokens` more tokens than the cache holds.
  static ForwardPass begin(const LlamaConfig& config, std::int64_t tokens, KvCache& cache,
                           const at::TensorOptions& options);
};

/// Grouped-query attention with rotary positions. Sources: Ainslie et al. 2023, "GQA"; Su et al. 2021.
class AttentionImpl : public torch::nn::Module {
 public:
  AttentionImpl(const LlamaConfig& config, std::size_t layer, at::ScalarType dtype);
  /// `x`: [tokens, hidden]; returns the same shape. Appends to the cache.
  at::Tensor forward(const at::Tensor& x, const ForwardPass& pass) const;

 private:
  at::Tensor attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                    const ForwardPass& pass) const;

  std::size_t layer_;
  std::int64_t key_value_heads_;
  std::int64_t head_size_;
  std::int64_t window_;  ///< 0: none
  Linear query_{nullptr}, key_{nullptr}, value_{nullptr}, output_{nullptr};
};
TORCH_MODULE(Attention);

/// SwiGLU: down(silu(gate(x)) * up(x)). Source: Shazeer 2020, "GLU Variants Improve Transformer".
class MlpImpl : public torch::nn::Module {
 public:
  MlpImpl(const LlamaConfig& config, at::ScalarType dtype);
  /// `x`: [tokens, hidden]; returns the same shape.
  at::Tensor forward(const at::Tensor& x) const;

 private:
  Linear gate_{nullptr}, up_{nullptr}, down_{nullptr};
};
TORCH_MODULE(Mlp);

/// One decoder layer: the unit of streaming.
class LlamaLayerImpl : public torch::nn::Module {
 public:
  LlamaLayerImpl(const LlamaConfig& config, std::size_t layer, at::ScalarType dtype);
  /// `x`: [tokens, hidden]; returns the same shape.
  at::Tensor forward(const at::Tensor& x, const ForwardPass& pass) const;

 private:
  RmsNorm attention_norm_{nullptr};
  Attention attention_{nullptr};
  RmsNorm mlp_norm_{nullptr};
  Mlp mlp_{nullptr};
};
TORCH_MODULE(LlamaLayer);

/// The whole model, from ids to logits.
class LlamaImpl : public torch::nn::Module {
 public:
  /// Where the layers are in the module and in the checkpoint.
  static constexpr const char* kLayersPath = "model.layers";
  static constexpr const char* kEmbedding = "model.embed_tokens.weight";
  static constexpr const char* kHead = "lm_head.weight";

  LlamaImpl(const LlamaConfig& config, at::ScalarType dtype);

  torch::nn::ModuleList layers() const { return layers_; }

  /// `ids`: int64 [tokens], the tokens that follow those in the cache, on the model's device; they are in the
  /// vocabulary and the cache has room for them. `layers` is a range of what points to the LlamaLayerImpls,
  /// in order. Returns the logits after each of the last `rows` of them, float32 [rows, vocabulary].
  template <class Layers>
  at::Tensor forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows, Layers&& layers) {
    at::Tensor x = look_up(ids);
    const ForwardPass pass = ForwardPass::begin(config_, ids.size(0), cache, x.options());
    for (auto&& layer : layers) x = layer->forward(x, pass);
    cache.advance(ids.size(0));
    return logits_of(x.slice(0, -rows));
  }

 private:
  at::Tensor look_up(const at::Tensor& ids) const;
  at::Tensor logits_of(const at::Tensor& x) const;

  LlamaConfig config_;
  at::Tensor embedding_;  ///< [vocabulary, hidden]
  torch::nn::ModuleList layers_;
  RmsNorm norm_{nullptr};
  Linear head_{nullptr};  ///< null: its weight is the embedding's
};
TORCH_MODULE(Llama);

}  // namespace tierstream::llama
