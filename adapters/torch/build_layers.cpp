#include <ATen/ops/full.h>
#include <tierstream/adapters/torch/build_layers.h>

#include <limits>

namespace tierstream {

at::Tensor weight_without_memory(at::IntArrayRef sizes, at::ScalarType dtype) {
  // An element of its own for each: tensors over one element would lie over each other.
  const double value = c10::isFloatingType(dtype) ? std::numeric_limits<double>::quiet_NaN() : 0.0;
  return at::full({}, value, at::TensorOptions(dtype)).expand(sizes);
}

void free_weights(torch::nn::Module& module) {
  for (at::Tensor& parameter : module.parameters()) {
    const at::Tensor none = weight_without_memory(parameter.sizes(), parameter.scalar_type());
    parameter.set_data(none);
  }
}

}  // namespace tierstream
