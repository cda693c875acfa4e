#include "llama/rope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tierstream::llama {
namespace {

/// Wavelengths above `original / low` are stretched by the factor, those below `original / high` kept;
/// between them the two are blended.
at::Tensor blend_for_llama3(const at::Tensor& frequencies, const RopeConfig& rope) {
  const auto original = static_cast<double>(rope.original_positions);
  const double low = rope.low_frequency_factor;
  const double high = rope.high_frequency_factor;
  const at::Tensor wavelengths = 2 * std::numbers::pi / frequencies;
  const at::Tensor stretched = frequencies / rope.factor;
  const at::Tensor kept_share = (original / wavelengths - low) / (high - low);
  const at::Tensor blended = (1 - kept_share) * frequencies / rope.factor + kept_share * frequencies;
  const at::Tensor ends = at::where(wavelengths > original / low, stretched, frequencies);
  const at::Tensor between = (wavelengths <= original / low).logical_and(wavelengths >= original / high);
  return at::where(between, blended, ends);
}

}  // namespace

at::Tensor rotary_frequencies(const RopeConfig& rope, std::int64_t head_size, std::int64_t length) {
  double base = rope.theta;
  if (rope.scaling == RopeScaling::kDynamicNtk && length > rope.max_positions) {
    const double ratio = static_cast<double>(length) / static_cast<double>(rope.max_positions);
    const auto size = static_cast<double>(head_size);
    base *= std::pow(rope.factor * ratio - (rope.factor - 1), size / (size - 2));
  }
  const at::Tensor exponents = at::arange(0, head_size, 2, at::kFloat) / static_cast<double>(head_size);
  const at::Tensor frequencies = 1.0 / at::pow(base, exponents);
  if (rope.scaling == RopeScaling::kLinear) return frequencies / rope.factor;
  if (rope.scaling == RopeScaling::kLlama3) return blend_for_llama3(frequencies, rope);
  return frequencies;
}

RotaryTables RotaryTables::make(const RopeConfig& rope, std::int64_t head_size, std::int64_t begin,
                                std::int64_t end, const at::TensorOptions& options) {
  const at::Tensor frequencies = rotary_frequencies(rope, head_size, end);
  const at::Tensor angles = at::outer(at::arange(begin, end, at::kFloat), frequencies);
  const at::Tensor both_halves = at::cat({angles, angles}, -1).unsqueeze(1);
  return {both_halves.cos().to(options), both_halves.sin().to(options)};
}

at::Tensor RotaryTables::rotate(const at::Tensor& x) const {
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  return x * cosine + at::cat({-halves[1], halves[0]}, -1) * sine;
}

}  // namespace tierstream::llama
