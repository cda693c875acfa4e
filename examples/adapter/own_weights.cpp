#include <tierstream/adapters/torch/streamed_model.h>

#include "examples.h"

namespace tierstream::examples {

at::Tensor own_weights(Model model, const Budget& budget, at::Tensor x) {
  StreamedModel streamed = stream(*model, "layers", {.streaming = {.budget = budget}});
  for (auto&& layer : streamed.layers<BlockImpl>()) x = layer->forward(x);
  x = model->head->forward(x);
  streamed.close();  // the model has its tensors again, where they were
  return x;
}

}  // namespace tierstream::examples
