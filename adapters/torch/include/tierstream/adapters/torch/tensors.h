#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/io/dtype.h>
#include <tierstream/streamer/lease.h>
#include <tierstream/tiers/device.h>

#include <optional>

namespace tierstream {

/// Torch's name for `dtype`; nothing for the formats that torch has no element type for (the sub-byte ones).
std::optional<at::ScalarType> find_scalar_type(DType dtype) noexcept;

/// The same, or Error kUnknownDType with the name.
at::ScalarType to_scalar_type(DType dtype);

/// The format's dtype of `type`; nothing for those that it has none for.
std::optional<DType> find_dtype(at::ScalarType type) noexcept;

/// "cpu" and "cuda:N" name the same device in both libraries.
at::Device to_torch_device(const Device& device);

/// The stream on which torch queues this thread's next work on `device`; on the CPU the one that means
/// nothing.
Stream current_stream(at::Device device);

/// Waits until all that this thread has queued on that stream is done.
void synchronize(at::Device device);

/// The tensor where it lies; no copy. Valid as long as `view` is, which nothing checks.
at::Tensor to_tensor(const TensorView& view, at::Device device);
/// The same, of memory that holds a tensor of `like`'s shape, strides and dtype.
at::Tensor to_tensor_like(const at::Tensor& like, std::byte* data, at::Device device);

}  // namespace tierstream
