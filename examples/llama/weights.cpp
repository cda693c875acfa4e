#include "llama/weights.h"

#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <utility>

#include "hugging_face/plain_weights.h"

namespace tierstream::llama {
namespace {

at::ScalarType dtype_of(const Checkpoint& checkpoint) {
  const CheckpointTensor* const embedding = checkpoint.find(LlamaImpl::kEmbedding);
  if (embedding == nullptr)
    throw Error(Errc::kTensorMissing, "is missing", {.tensor = LlamaImpl::kEmbedding});
  const at::ScalarType dtype = to_scalar_type(embedding->dtype);
  if (dtype != at::kFloat && dtype != at::kHalf && dtype != at::kBFloat16) {
    throw Error(Errc::kUnknownDType,
                fmt::format("is {}; this model computes in F32, F16 or BF16", name_of(embedding->dtype)),
                {.tensor = embedding->name});
  }
  return dtype;
}

}  // namespace

LlamaFiles LlamaFiles::open(const std::string& directory) {
  LlamaConfig config = LlamaConfig::load(directory);
  Checkpoint checkpoint = Checkpoint::open(directory);
  // Before a model of as many layers as the configuration says is made.
  const std::size_t layers = checkpoint.layers(LlamaImpl::kLayersPath).layers.size();
  if (layers != static_cast<std::size_t>(config.layers)) {
    throw Error(Errc::kWeightMismatch,
                fmt::format("config.json says {}, the weights have {}",
                            counted(static_cast<std::uint64_t>(config.layers), "layer"), layers),
                {.file = directory});
  }
  const at::ScalarType dtype = dtype_of(checkpoint);
  return {std::move(config), std::move(checkpoint), dtype};
}

LayerTable LlamaFiles::table() const {
  LayerTable table = checkpoint.layers(LlamaImpl::kLayersPath);
  // Files of before transformers 4.32 hold frequencies, which are computed.
  for (Layer& layer : table.layers) {
    std::erase_if(layer.tensors,
                  [](const TensorSpec& tensor) { return tensor.name.ends_with("rotary_emb.inv_freq"); });
  }
  std::erase_if(table.outside.tensors, [&](const TensorSpec& tensor) {
    return config.tied_embeddings && tensor.name == LlamaImpl::kHead;
  });
  return table;
}

Llama load_llama(const LlamaFiles& files, at::Device device) {
  Llama model(files.config, files.dtype);
  load_plainly(*model, files.checkpoint, device);
  return model;
}

ResidentLlama::ResidentLlama(Llama loaded) : model_(std::move(loaded)) {
  for (std::size_t i = 0; i < model_->layers()->size(); ++i) {
    layers_.push_back(model_->layers()->ptr<LlamaLayerImpl>(i));
  }
}

at::Tensor ResidentLlama::forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows) {
  const c10::InferenceMode inference;
  return model_->forward(ids, cache, rows, layers_);
}

StreamedLlama::StreamedLlama(const LlamaFiles& files, StreamerOptions options)
    : model_(files.config, files.dtype),
      streamed_(stream(*model_, LlamaImpl::kLayersPath, files.table(), {.streaming = std::move(options)})) {}

StreamedLlama::StreamedLlama(Llama loaded, StreamerOptions options)
    : model_(std::move(loaded)),
      streamed_(stream(*model_, LlamaImpl::kLayersPath, {.streaming = std::move(options)})) {}

Budget StreamedLlama::least_budget() const {
  Budget least = streamer().plan().minimum;
  least.gpu += kept_bytes();
  return least;
}

std::uint64_t StreamedLlama::kept_bytes() const { return streamed_.weights()->kept_bytes(); }

at::Tensor StreamedLlama::forward(const at::Tensor& ids, KvCache& cache, std::int64_t rows) {
  const c10::InferenceMode inference;
  return model_->forward(ids, cache, rows, streamed_.layers<LlamaLayerImpl>());
}

}  // namespace tierstream::llama
