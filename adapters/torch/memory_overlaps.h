#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <span>
#include <vector>

namespace tierstream {

/// The bytes from a tensor's first element to its last, holes included; empty where it has none.
std::span<const std::byte> extent_of(const at::Tensor& tensor);

/// The positions in `tensors`, grouped: two whose extents overlap are in the same group. By address.
std::vector<std::vector<std::size_t>> group_by_memory(std::span<const at::Tensor> tensors);

}  // namespace tierstream
