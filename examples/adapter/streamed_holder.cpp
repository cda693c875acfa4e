#include <tierstream/adapters/torch/streamed.h>

#include <vector>

#include "examples.h"

namespace tierstream::examples {
namespace {

/// Holds its blocks itself, beside the list in which they are registered.
struct HoldingModelImpl : torch::nn::Module {
  HoldingModelImpl() {
    torch::nn::ModuleList list;
    for (std::int64_t i = 0; i < kBlocks; ++i) list->push_back(blocks.emplace_back());
    register_module("layers", list);
    head = register_module("head", torch::nn::Linear(kWidth, 10));
  }

  at::Tensor forward(at::Tensor x) {
    for (const auto& block : blocks) x = block(x);
    return head->forward(x);
  }

  std::vector<Streamed<BlockImpl>> blocks;  // was std::vector<Block>
  torch::nn::Linear head = nullptr;
};

}  // namespace

at::Tensor streamed_holder(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  auto model = std::make_shared<HoldingModelImpl>();
  const StreamedModel streamed = stream(*model, "layers", checkpoint, {.streaming = {.budget = budget}});
  for (auto& block : model->blocks) block.attach(streamed);
  return model->forward(std::move(x));
}

}  // namespace tierstream::examples
