#include "llama/rope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tierstream::llama {
namespace {

/// Wavelengths above `trained / low` are stretched by the factor, those below `trained / high` kept; between
/// them the two are blended.
at::Tensor blend_for_llama3(const at::Tensor& frequencies, const RopeConfig& rope) {
  const auto trained = static_cast<double>(rope.trained_length);
  const double low = rope.low_turns;
  const double high = rope.high_turns;
  const at::Tensor wavelengths = 2 * std::numbers::pi / frequencies;
  const at::Tensor stretched = frequencies / rope.factor;
  const at::Tensor kept_share = (trained / wavelengths - low) / (high - low);
  const at::Tensor blended = (1 - kept_share) * frequencies / rope.factor + kept_share * frequencies;
  const at::Tensor ends = at::where(wavelengths > trained / low, stretched, frequencies);
  const at::Tensor between = (wavelengths <= trained / low).logical_and(wavelengths >= trained / high);
  return at::where(between, blended, ends);
}

/// `periods`: 1 / frequency, in order. Up to the place that turns `high_turns` times they are kept, from that
/// of `low_turns` on stretched by the factor; between them the kept share falls evenly from place to place.
at::Tensor blend_for_yarn(const at::Tensor& periods, const RopeConfig& rope, std::int64_t head_size) {
  const auto size = static_cast<double>(head_size);
  const auto place_of = [&](double turns) {
    const double period = static_cast<double>(rope.trained_length) / (turns * 2 * std::numbers::pi);
    return size * std::log(period) / (2 * std::log(rope.theta));
  };
  double first = place_of(rope.high_turns);
  double last = place_of(rope.low_turns);
  if (rope.whole_places) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  // As transformers limits them: the second beyond the last place, and never both to the same one.
  first = std::max(first, 0.0);
  last = std::min(last, size - 1);
  if (first == last) last += 0.001;
  const at::Tensor places = at::arange(head_size / 2, at::kFloat);
  const at::Tensor kept_share = 1 - ((places - first) / (last - first)).clamp(0, 1);
  return 1.0 / (rope.factor * periods) * (1 - kept_share) + 1.0 / periods * kept_share;
}

}  // namespace

at::Tensor rotary_frequencies(const RopeConfig& rope, std::int64_t head_size, std::int64_t length) {
  double base = rope.theta;
  if (rope.scaling == RopeScaling::kDynamicNtk && length > rope.trained_length) {
    const double ratio = static_cast<double>(length) / static_cast<double>(rope.trained_length);
    const auto size = static_cast<double>(head_size);
    base *= std::pow(rope.factor * ratio - (rope.factor - 1), size / (size - 2));
  }
  const at::Tensor exponents = at::arange(0, head_size, 2, at::kFloat) / static_cast<double>(head_size);
  const at::Tensor periods = at::pow(base, exponents);
  if (rope.scaling == RopeScaling::kLongRope) {
    const bool is_long = length > rope.trained_length;
    return 1.0 / (at::tensor(is_long ? rope.long_factors : rope.short_factors, at::kFloat) * periods);
  }
  if (rope.scaling == RopeScaling::kYarn) return blend_for_yarn(periods, rope, head_size);
  const at::Tensor frequencies = 1.0 / periods;
  if (rope.scaling == RopeScaling::kLinear) return frequencies / rope.factor;
  if (rope.scaling == RopeScaling::kLlama3) return blend_for_llama3(frequencies, rope);
  return frequencies;
}

RotaryTables RotaryTables::make(const RopeConfig& rope, std::int64_t head_size, std::int64_t begin,
                                std::int64_t end, const at::TensorOptions& options) {
  const at::Tensor frequencies = rotary_frequencies(rope, head_size, end);
  const at::Tensor angles = at::outer(at::arange(begin, end, at::kFloat), frequencies);
  const at::Tensor both_halves = at::cat({angles, angles}, -1).unsqueeze(1);
  const auto table = [&](const at::Tensor& values) { return (values * rope.attention_factor).to(options); };
  return {table(both_halves.cos()), table(both_halves.sin())};
}

at::Tensor RotaryTables::rotate(const at::Tensor& x) const {
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  return x * cosine + at::cat({-halves[1], halves[0]}, -1) * sine;
}

}  // namespace tierstream::llama
