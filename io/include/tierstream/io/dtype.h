#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace tierstream {

/// Every element type of the safetensors format (safetensors 0.7, `Dtype` in its Rust source).
enum class DType : std::uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

/// Bits per element: 4 and 6 for the sub-byte types, a multiple of 8 for all others.
std::uint32_t bits_per_element(DType dtype) noexcept;

/// The name in a safetensors header, e.g. "BF16".
std::string_view name_of(DType dtype) noexcept;

std::optional<DType> parse_dtype(std::string_view name) noexcept;

}  // namespace tierstream
