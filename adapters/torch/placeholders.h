#pragma once

#include <ATen/core/Tensor.h>

#include <map>

namespace tierstream {

/// Tensors of any shape over a single element per dtype: right in shape, dtype and device, and no memory. Not
/// "meta" tensors, whose data cannot be replaced by a device's. A weight used without a lease shows as NaN.
class Placeholders {
 public:
  explicit Placeholders(at::Device device) : device_(device) {}

  at::Tensor like(const at::Tensor& tensor);

 private:
  at::Device device_;
  std::map<at::ScalarType, at::Tensor> elements_;
};

/// The shape, strides and dtype of `tensor`, contiguous where it has holes or repeats elements: a meta
/// tensor.
at::Tensor shape_of(const at::Tensor& tensor);

}  // namespace tierstream
