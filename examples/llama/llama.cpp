#include "llama/llama.h"

#include <ATen/ATen.h>
#include <tierstream/adapters/torch/build_layers.h>

#include <algorithm>

namespace tierstream::llama {
namespace {

namespace nn = torch::nn;

at::Tensor add_weight(nn::Module& module, const char* name, at::IntArrayRef shape, at::ScalarType dtype) {
  return module.register_parameter(name, weight_without_memory(shape, dtype), /*requires_grad=*/false);
}

/// True where a token at `rows` sees one at `columns`: not after it, nor `window` or more before it.
at::Tensor make_mask(const at::Tensor& rows, const at::Tensor& columns, std::int64_t window) {
  const at::Tensor seen = columns <= rows;
  return window == 0 ? seen : seen.logical_and(columns > rows - window);
}

}  // namespace

LinearImpl::LinearImpl(std::int64_t inputs, std::int64_t outputs, bool with_bias, at::ScalarType dtype)
    : weight_(add_weight(*this, "weight", {outputs, inputs}, dtype)) {
  if (with_bias) bias_ = add_weight(*this, "bias", {outputs}, dtype);
}

at::Tensor LinearImpl::forward(const at::Tensor& x) const { return at::linear(x, weight_, bias_); }

RmsNormImpl::RmsNormImpl(std::int64_t size, double epsilon, at::ScalarType dtype)
    : weight_(add_weight(*this, "weight", {size}, dtype)), epsilon_(epsilon) {}

at::Tensor RmsNormImpl::forward(const at::Tensor& x) const {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor mean_square = wide.square().mean(-1, /*keepdim=*/true);
  return weight_ * (wide * (mean_square + epsilon_).rsqrt()).to(x.scalar_type());
}

ForwardPass ForwardPass::begin(const LlamaConfig& config, std::int64_t tokens, KvCache& cache,
                               const at::TensorOptions& options) {
  const std::int64_t begin = cache.length();
  const std::int64_t end = begin + tokens;
  ForwardPass pass{RotaryTables::make(config.rope, config.head_size, begin, end, options), cache, {}, {}};
  if (tokens == 1) return pass;  // it sees all, or the last of them
  const auto indices = at::TensorOptions(at::kLong).device(options.device());
  const at::Tensor rows = at::arange(begin, end, indices).unsqueeze(1);
  const at::Tensor columns = at::arange(end, indices);
  if (begin > 0) pass.causal_mask = make_mask(rows, columns, 0);
  const std::int64_t window = *std::ranges::max_element(config.windows);
  if (window != 0 && window < end) pass.windowed_mask = make_mask(rows, columns, window);
  return pass;
}

AttentionImpl::AttentionImpl(const LlamaConfig& config, std::size_t layer, at::ScalarType dtype)
    : layer_(layer),
      key_value_heads_(config.key_value_heads),
      head_size_(config.head_size),
      window_(config.windows[layer]) {
  const bool bias = config.query_key_value_bias;
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query_size = config.heads * head_size_;
  const std::int64_t key_value_size = key_value_heads_ * head_size_;
  query_ = register_module("q_proj", Linear(hidden, query_size, bias, dtype));
  key_ = register_module("k_proj", Linear(hidden, key_value_size, bias, dtype));
  value_ = register_module("v_proj", Linear(hidden, key_value_size, bias, dtype));
  output_ = register_module("o_proj", Linear(query_size, hidden, config.attention_output_bias, dtype));
}

at::Tensor AttentionImpl::forward(const at::Tensor& x, const ForwardPass& pass) const {
  // [tokens, heads, head_size], which is rotated, then heads first
  const auto heads = [&](const at::Tensor& t) { return t.unflatten(-1, {-1, head_size_}); };
  const at::Tensor queries = pass.rotary.rotate(heads(query_->forward(x)));
  const auto [keys, values] =
      pass.cache.append(layer_, pass.rotary.rotate(heads(key_->forward(x))).transpose(0, 1),
                        heads(value_->forward(x)).transpose(0, 1));
  return output_->forward(attend(queries.transpose(0, 1), keys, values, pass));
}

/// `queries`: [heads, tokens, head_size]; returns [tokens, heads * head_size].
at::Tensor AttentionImpl::attend(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values,
                                 const ForwardPass& pass) const {
  const std::int64_t tokens = queries.size(1);
  const std::int64_t all_tokens = keys.size(1);
  // One token needs no mask: where there is a window, it is given the keys within.
  const std::int64_t seen = window_ != 0 && tokens == 1 ? std::min(window_, all_tokens) : all_tokens;
  // A batch of key-value heads, each with its group of query heads; its keys are repeated without a copy.
  const at::Tensor grouped = queries.unflatten(0, {key_value_heads_, -1});
  const auto repeat = [&](const at::Tensor& t) {
    return t.narrow(1, all_tokens - seen, seen).unsqueeze(1).expand({-1, grouped.size(1), -1, -1});
  };
  std::optional<at::Tensor> mask;
  const at::Tensor& needed =
      window_ != 0 && pass.windowed_mask.defined() ? pass.windowed_mask : pass.causal_mask;
  if (needed.defined()) mask = needed;
  const bool is_causal = !mask && tokens > 1;
  const at::Tensor attended =
      at::scaled_dot_product_attention(grouped, repeat(keys), repeat(values), mask, 0.0, is_causal);
  return attended.flatten(0, 1).transpose(0, 1).flatten(1);
}

MlpImpl::MlpImpl(const LlamaConfig& config, at::ScalarType dtype) {
  const auto add = [&](const char* name, std::int64_t inputs, std::int64_t outputs) {
    return register_module(name, Linear(inputs, outputs, config.mlp_bias, dtype));
  };
  gate_ = add("gate_proj", config.hidden_size, config.intermediate_size);
  up_ = add("up_proj", config.hidden_size, config.intermediate_size);
  down_ = add("down_proj", config.intermediate_size, config.hidden_size);
}

at::Tensor MlpImpl::forward(const at::Tensor& x) const {
  return down_->forward(at::silu(gate_->forward(x)) * up_->forward(x));
}

LlamaLayerImpl::LlamaLayerImpl(const LlamaConfig& config, std::size_t layer, at::ScalarType dtype) {
  const auto norm = [&] { return RmsNorm(config.hidden_size, config.norm_epsilon, dtype); };
  attention_norm_ = register_module("input_layernorm", norm());
  attention_ = register_module("self_attn", Attention(config, layer, dtype));
  mlp_norm_ = register_module("post_attention_layernorm", norm());
  mlp_ = register_module("mlp", Mlp(config, dtype));
}

at::Tensor LlamaLayerImpl::forward(const at::Tensor& x, const ForwardPass& pass) const {
  const at::Tensor y = x + attention_->forward(attention_norm_->forward(x), pass);
  return y + mlp_->forward(mlp_norm_->forward(y));
}

LlamaImpl::LlamaImpl(const LlamaConfig& config, at::ScalarType dtype) : config_(config) {
  const auto model = register_module("model", std::make_shared<nn::Module>("model"));
  const auto embedding = model->register_module("embed_tokens", std::make_shared<nn::Module>("embed_tokens"));
  embedding_ = add_weight(*embedding, "weight", {config.vocabulary_size, config.hidden_size}, dtype);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    layers_->push_back(LlamaLayer(config, static_cast<std::size_t>(i), dtype));
  }
  model->register_module("layers", layers_);
  norm_ = model->register_module("norm", RmsNorm(config.hidden_size, config.norm_epsilon, dtype));
  if (config.tied_embeddings) return;
  head_ = register_module("lm_head", Linear(config.hidden_size, config.vocabulary_size, false, dtype));
}

at::Tensor LlamaImpl::look_up(const at::Tensor& ids) const { return at::embedding(embedding_, ids); }

at::Tensor LlamaImpl::logits_of(const at::Tensor& x) const {
  const at::Tensor normed = norm_->forward(x);
  return (head_.is_empty() ? at::linear(normed, embedding_) : head_->forward(normed)).to(at::kFloat);
}

}  // namespace tierstream::llama
