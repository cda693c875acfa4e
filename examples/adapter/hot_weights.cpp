#include <tierstream/adapters/torch/streamed_model.h>

#include "examples.h"

namespace tierstream::examples {

at::Tensor hot_weights(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  Model model;
  StreamedModel streamed = stream(*model, "layers", checkpoint, {.streaming = {.budget = budget}});
  const at::Tensor before = model->layers->ptr<BlockImpl>(2)->up->bias.detach().clone();
  streamed.update(2, "up.bias", before + 1);  // for all later passes

  // Lora::open("/models/my-lora") reads what PEFT has written; this one is made here.
  const Lora lora{{{.name = "layers.0.up.weight",
                    .a = torch::rand({4, kWidth}),
                    .b = torch::rand({2 * kWidth, 4}),
                    .scaling = 0.5}}};
  const auto id = streamed.add_lora(lora, /*strength=*/0.8);
  for (auto&& layer : streamed.layers<BlockImpl>()) layer->forward(x);
  streamed.remove_lora(id);

  streamed.update(2, "up.bias", before);
  for (auto&& layer : streamed.layers<BlockImpl>()) x = layer->forward(x);
  return model->head->forward(x);
}

}  // namespace tierstream::examples
