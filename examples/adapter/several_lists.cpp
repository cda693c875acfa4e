#include <tierstream/adapters/torch/streamed_model.h>

#include "examples.h"

namespace tierstream::examples {
namespace {

/// The checkpoint's six blocks as two lists, used in turn.
struct TwoListsImpl : torch::nn::Module {
  TwoListsImpl() {
    for (std::int64_t i = 0; i < kBlocks / 2; ++i) even->push_back(Block());
    for (std::int64_t i = 0; i < kBlocks / 2; ++i) odd->push_back(Block());
    register_module("even", even);
    register_module("odd", odd);
    head = register_module("head", torch::nn::Linear(kWidth, 10));
  }

  torch::nn::ModuleList even;
  torch::nn::ModuleList odd;
  torch::nn::Linear head = nullptr;
};

/// A table in which the checkpoint's layers stand list by list.
LayerTable by_lists(const Checkpoint& checkpoint) {
  LayerTable table = checkpoint.layers("layers");
  std::vector<Layer> layers;
  for (const std::size_t i : {0u, 2u, 4u, 1u, 3u, 5u}) layers.push_back(table.layers[i]);
  table.layers = std::move(layers);
  return table;
}

}  // namespace

at::Tensor several_lists(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  auto model = std::make_shared<TwoListsImpl>();
  const StreamedModel streamed =
      stream(*model, "even", by_lists(checkpoint), {.streaming = {.budget = budget}, .more_layers = {"odd"}});
  const auto even = streamed.layers<BlockImpl>("even");
  const auto odd = streamed.layers<BlockImpl>("odd");
  const Pass pass = streamed.binding().begin_pass({0, 3, 1, 4, 2, 5});  // the order in which layers are used
  for (std::size_t i = 0; i < even.size(); ++i) {
    x = even.acquire(i)->forward(x);
    x = odd.acquire(i)->forward(x);
  }
  return model->head->forward(x);
}

}  // namespace tierstream::examples
