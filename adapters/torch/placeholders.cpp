#include "placeholders.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/full.h>

#include <limits>

namespace tierstream {

at::Tensor Placeholders::like(const at::Tensor& tensor) {
  const at::ScalarType type = tensor.scalar_type();
  at::Tensor& element = elements_[type];
  if (!element.defined()) {
    const double value = c10::isFloatingType(type) ? std::numeric_limits<double>::quiet_NaN() : 0.0;
    element = at::full({}, value, at::TensorOptions(type).device(device_));
  }
  return element.expand(tensor.sizes());
}

at::Tensor shape_of(const at::Tensor& tensor) {
  const auto options = at::TensorOptions(tensor.scalar_type()).device(at::kMeta);
  if (tensor.is_non_overlapping_and_dense()) {
    return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  }
  return at::empty(tensor.sizes(), options);  // strides that mean nothing for other memory
}

}  // namespace tierstream
