#include <tierstream/adapters/torch/streamed_sequential.h>

#include "examples.h"

namespace tierstream::examples {

at::Tensor sequential(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  torch::nn::Sequential layers;
  for (std::int64_t i = 0; i < kBlocks; ++i) layers->push_back(Block());
  auto model = std::make_shared<torch::nn::Module>();
  model->register_module("layers", layers);
  torch::nn::Linear head = model->register_module("head", torch::nn::Linear(kWidth, 10));

  const StreamedModel streamed = stream(*model, "layers", checkpoint, {.streaming = {.budget = budget}});
  const StreamedSequential blocks(streamed);  // takes the place of `layers`
  return head->forward(blocks(x));
}

}  // namespace tierstream::examples
