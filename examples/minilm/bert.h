#pragma once

#include <torch/nn.h>

#include <cstdint>
#include <filesystem>

namespace tierstream::minilm {

/// The fields of a Hugging Face config.json that the encoder needs.
struct BertConfig {
  std::int64_t vocabulary_size;
  std::int64_t hidden_size;
  std::int64_t layers;
  std::int64_t heads;
  std::int64_t intermediate_size;
  std::int64_t max_positions;
  std::int64_t token_types;
  double layer_norm_epsilon;

  /// Throws tierstream::Error naming the file and the field.
  static BertConfig load(const std::filesystem::path& config_json);
};

/// The table of word vectors has half of the model's bytes, of which a sentence uses a few rows.
enum class WordTable : std::uint8_t {
  kInModule,
  kElsewhere,  ///< word vectors are looked up by someone else
};

// Modules and their parameters carry the names of the checkpoint.

class BertEmbeddingsImpl : public torch::nn::Module {
 public:
  BertEmbeddingsImpl(const BertConfig& config, WordTable words);
  /// `ids`: [batch, tokens]; returns [batch, tokens, hidden]. Needs the table in the module.
  at::Tensor look_up(const at::Tensor& ids);
  /// `words`: [batch, tokens, hidden], as looked up; returns the same shape.
  at::Tensor forward(const at::Tensor& words);

 private:
  torch::nn::Embedding words_{nullptr};
  torch::nn::Embedding positions_, token_types_;
  torch::nn::LayerNorm norm_;
  at::Tensor position_ids_;
};
TORCH_MODULE(BertEmbeddings);

/// One encoder layer: the unit of streaming.
class BertLayerImpl : public torch::nn::Module {
 public:
  explicit BertLayerImpl(const BertConfig& config);
  /// `mask`: [batch, 1, 1, tokens], true where a token counts.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& mask);

 private:
  at::Tensor attend(const at::Tensor& x, const at::Tensor& mask);

  std::int64_t heads_;
  torch::nn::Linear query_, key_, value_, attention_output_;
  torch::nn::LayerNorm attention_norm_;
  torch::nn::Linear intermediate_, output_;
  torch::nn::LayerNorm output_norm_;
};
TORCH_MODULE(BertLayer);

/// BertModel without the pooler, which sentence embeddings do not use.
class BertImpl : public torch::nn::Module {
 public:
  /// Where the layers are in the module and in the checkpoint.
  static constexpr const char* kLayersPath = "encoder.layer";
  static constexpr const char* kWordTable = "embeddings.word_embeddings.weight";

  BertImpl(const BertConfig& config, WordTable words);

  torch::nn::ModuleList layers() const { return layers_; }
  BertEmbeddings embeddings() const { return embeddings_; }

  /// Sentence embeddings of unit length, [batch, hidden], as sentence-transformers computes them: the mean
  /// over the tokens that count. `words`: [batch, tokens, hidden]; `mask`: [batch, tokens]; `layers` is a
  /// range of what points to the BertLayerImpls, in order.
  template <class Layers>
  at::Tensor embed(const at::Tensor& words, const at::Tensor& mask, Layers&& layers) {
    at::Tensor x = embeddings_->forward(words);
    const at::Tensor attended = mask.unsqueeze(1).unsqueeze(1);
    for (auto&& layer : layers) x = layer->forward(x, attended);
    return mean_direction(x, mask);
  }

 private:
  static at::Tensor mean_direction(const at::Tensor& x, const at::Tensor& mask);

  BertEmbeddings embeddings_;
  torch::nn::ModuleList layers_;
};
TORCH_MODULE(Bert);

}  // namespace tierstream::minilm
