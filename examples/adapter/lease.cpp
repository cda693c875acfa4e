#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/streamer/streamer.h>

#include "examples.h"

namespace tierstream::examples {

at::Tensor lease(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  Streamer streamer(checkpoint.layers("layers"), {.budget = budget});
  const at::Device device = to_torch_device(streamer.device());
  const Stream stream = current_stream(device);
  for (const Lease layer : streamer.pass({.stream = stream})) {
    const auto weight = [&](std::string_view name) { return to_tensor(layer[name], device); };
    const at::Tensor y = at::layer_norm(x, {kWidth}, weight("norm.weight"), weight("norm.bias"));
    const at::Tensor z = at::gelu(at::linear(y, weight("up.weight"), weight("up.bias")));
    x = x + at::linear(z, weight("down.weight"), weight("down.bias"));
  }
  const auto outside = [&](std::string_view name) {
    return to_tensor(streamer.outside(name, {.stream = stream}), device);
  };
  return at::linear(x, outside("head.weight"), outside("head.bias"));
}

}  // namespace tierstream::examples
