#include <tierstream/adapters/torch/streamed_model.h>

#include "examples.h"

namespace tierstream::examples {
namespace {

/// Its list and its head have other names than in the checkpoint, where they are "layers" and "head".
struct OtherNamesImpl : torch::nn::Module {
  OtherNamesImpl() {
    register_module("blocks", blocks);
    classifier = register_module("classifier", torch::nn::Linear(kWidth, 10));
  }

  torch::nn::ModuleList blocks = ModelImpl::make_blocks();
  torch::nn::Linear classifier = nullptr;
};

}  // namespace

at::Tensor other_names(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  auto model = std::make_shared<OtherNamesImpl>();
  const StreamedModel streamed =
      stream(*model, "blocks", checkpoint,
             {.streaming = {.budget = budget},
              .binding = {.rename_outside = rename_prefixes({{"classifier.", "head."}})},
              .rename_layers = rename_prefixes({{"blocks", "layers"}})});
  for (auto&& layer : streamed.layers<BlockImpl>()) x = layer->forward(x);
  return model->classifier->forward(x);
}

}  // namespace tierstream::examples
