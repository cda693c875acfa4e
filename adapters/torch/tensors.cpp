#include <ATen/ops/from_blob.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

namespace tierstream {

std::optional<at::ScalarType> find_scalar_type(DType dtype) noexcept {
  switch (dtype) {
    case DType::kBool:
      return at::kBool;
    case DType::kU8:
      return at::kByte;
    case DType::kI8:
      return at::kChar;
    case DType::kF8E5M2:
      return at::kFloat8_e5m2;
    case DType::kF8E4M3:
      return at::kFloat8_e4m3fn;
    case DType::kF8E8M0:
      return at::kFloat8_e8m0fnu;
    case DType::kF8E4M3Fnuz:
      return at::kFloat8_e4m3fnuz;
    case DType::kF8E5M2Fnuz:
      return at::kFloat8_e5m2fnuz;
    case DType::kI16:
      return at::kShort;
    case DType::kU16:
      return at::kUInt16;
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kI32:
      return at::kInt;
    case DType::kU32:
      return at::kUInt32;
    case DType::kF32:
      return at::kFloat;
    case DType::kC64:
      return at::kComplexFloat;
    case DType::kF64:
      return at::kDouble;
    case DType::kI64:
      return at::kLong;
    case DType::kU64:
      return at::kUInt64;
    case DType::kF4:
    case DType::kF6E2M3:
    case DType::kF6E3M2:
      return std::nullopt;
  }
  return std::nullopt;
}

at::ScalarType to_scalar_type(DType dtype) {
  if (const auto type = find_scalar_type(dtype)) return *type;
  throw Error(Errc::kUnknownDType, fmt::format("torch has no dtype for {}", name_of(dtype)));
}

std::optional<DType> find_dtype(at::ScalarType type) noexcept {
  for (int i = 0; i <= static_cast<int>(DType::kU64); ++i) {
    const auto dtype = static_cast<DType>(i);
    if (find_scalar_type(dtype) == type) return dtype;
  }
  return std::nullopt;
}

at::Device to_torch_device(const Device& device) { return at::Device(device.traits().name); }

Stream current_stream(at::Device device) {
  if (device.is_cpu()) return {};
  const c10::impl::VirtualGuardImpl backend(device.type());
  return {backend.getStream(device).native_handle()};
}

void synchronize(at::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl backend(device.type());
  backend.getStream(device).synchronize();
}

at::Tensor to_tensor(const TensorView& view, at::Device device) {
  const auto options = at::TensorOptions(to_scalar_type(view.spec->dtype)).device(device);
  return at::for_blob(view.data, view.spec->shape).options(options).target_device(device).make_tensor();
}

at::Tensor to_tensor_like(const at::Tensor& like, std::byte* data, at::Device device) {
  const auto options = at::TensorOptions(like.scalar_type()).device(device);
  return at::for_blob(data, like.sizes())
      .strides(like.strides())
      .options(options)
      .target_device(device)
      .make_tensor();
}

}  // namespace tierstream
