#include "bert.h"

#include <fmt/format.h>

#include "hugging_face/config_fields.h"

namespace tierstream::minilm {
namespace {

namespace nn = torch::nn;

nn::LayerNorm layer_norm(const BertConfig& config) {
  return nn::LayerNorm(nn::LayerNormOptions({config.hidden_size}).eps(config.layer_norm_epsilon));
}

/// A module that only groups others under a name.
std::shared_ptr<nn::Module> add_group(nn::Module& parent, const char* name) {
  return parent.register_module(name, std::make_shared<nn::Module>(name));
}

}  // namespace

BertConfig BertConfig::load(const std::filesystem::path& config_json) {
  const ConfigFields fields = ConfigFields::load(config_json);
  fields.require("model_type", "bert");
  fields.require("hidden_act", "gelu");
  const BertConfig result{.vocabulary_size = fields.size("vocab_size"),
                          .hidden_size = fields.size("hidden_size"),
                          .layers = fields.size("num_hidden_layers"),
                          .heads = fields.size("num_attention_heads"),
                          .intermediate_size = fields.size("intermediate_size"),
                          .max_positions = fields.size("max_position_embeddings"),
                          .token_types = fields.size("type_vocab_size"),
                          .layer_norm_epsilon = fields.positive("layer_norm_eps")};
  if (result.hidden_size % result.heads != 0) {
    fields.refuse("num_attention_heads",
                  fmt::format("does not divide the hidden size {}", result.hidden_size));
  }
  return result;
}

BertEmbeddingsImpl::BertEmbeddingsImpl(const BertConfig& config, WordTable words)
    : positions_(
          register_module("position_embeddings", nn::Embedding(config.max_positions, config.hidden_size))),
      token_types_(
          register_module("token_type_embeddings", nn::Embedding(config.token_types, config.hidden_size))),
      norm_(register_module("LayerNorm", layer_norm(config))),
      position_ids_(register_buffer("position_ids", torch::arange(config.max_positions).unsqueeze(0))) {
  if (words == WordTable::kElsewhere) return;
  words_ = register_module("word_embeddings", nn::Embedding(config.vocabulary_size, config.hidden_size));
}

at::Tensor BertEmbeddingsImpl::look_up(const at::Tensor& ids) { return words_->forward(ids); }

at::Tensor BertEmbeddingsImpl::forward(const at::Tensor& words) {
  const at::Tensor positions = position_ids_.slice(1, 0, words.size(1));
  const at::Tensor first_segment = torch::zeros_like(positions);
  const at::Tensor x = words + token_types_->forward(first_segment);
  return norm_->forward(x + positions_->forward(positions));
}

BertLayerImpl::BertLayerImpl(const BertConfig& config)
    : heads_(config.heads),
      query_(config.hidden_size, config.hidden_size),
      key_(config.hidden_size, config.hidden_size),
      value_(config.hidden_size, config.hidden_size),
      attention_output_(config.hidden_size, config.hidden_size),
      attention_norm_(layer_norm(config)),
      intermediate_(config.hidden_size, config.intermediate_size),
      output_(config.intermediate_size, config.hidden_size),
      output_norm_(layer_norm(config)) {
  const auto attention = add_group(*this, "attention");
  const auto self = add_group(*attention, "self");
  self->register_module("query", query_);
  self->register_module("key", key_);
  self->register_module("value", value_);
  const auto attention_output = add_group(*attention, "output");
  attention_output->register_module("dense", attention_output_);
  attention_output->register_module("LayerNorm", attention_norm_);
  add_group(*this, "intermediate")->register_module("dense", intermediate_);
  const auto output = add_group(*this, "output");
  output->register_module("dense", output_);
  output->register_module("LayerNorm", output_norm_);
}

at::Tensor BertLayerImpl::attend(const at::Tensor& x, const at::Tensor& mask) {
  const auto heads = [&](const at::Tensor& t) { return t.unflatten(-1, {heads_, -1}).transpose(1, 2); };
  const at::Tensor attended = at::scaled_dot_product_attention(
      heads(query_->forward(x)), heads(key_->forward(x)), heads(value_->forward(x)), mask);
  return attended.transpose(1, 2).flatten(2);
}

at::Tensor BertLayerImpl::forward(const at::Tensor& x, const at::Tensor& mask) {
  const at::Tensor y = attention_norm_->forward(attention_output_->forward(attend(x, mask)) + x);
  return output_norm_->forward(output_->forward(at::gelu(intermediate_->forward(y))) + y);
}

BertImpl::BertImpl(const BertConfig& config, WordTable words)
    : embeddings_(register_module("embeddings", BertEmbeddings(config, words))) {
  for (std::int64_t i = 0; i < config.layers; ++i) layers_->push_back(BertLayer(config));
  add_group(*this, "encoder")->register_module("layer", layers_);
}

at::Tensor BertImpl::mean_direction(const at::Tensor& x, const at::Tensor& mask) {
  const at::Tensor weights = mask.unsqueeze(-1).to(x.dtype());
  return nn::functional::normalize((x * weights).sum(1) / weights.sum(1));
}

}  // namespace tierstream::minilm
