#include <tierstream/adapters/torch/streamed_model.h>

#include "examples.h"

namespace tierstream::examples {

at::Tensor range(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  Model model;
  StreamedModel streamed = stream(*model, "layers", checkpoint, {.streaming = {.budget = budget}});
  for (auto&& layer : streamed.layers<BlockImpl>()) x = layer->forward(x);
  x = model->head->forward(x);
  streamed.close();
  return x;
}

}  // namespace tierstream::examples
