#include <tierstream/adapters/torch/build_layers.h>
#include <tierstream/adapters/torch/streamed_model.h>

#include "examples.h"

namespace tierstream::examples {

at::Tensor build(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  Model model(
      build_layers(kBlocks, [](std::size_t) { return Block(); }));  // never more than one block's weights
  const StreamedModel streamed = stream(*model, "layers", checkpoint, {.streaming = {.budget = budget}});
  for (auto&& layer : streamed.layers<BlockImpl>()) x = layer->forward(x);
  return model->head->forward(x);
}

}  // namespace tierstream::examples
