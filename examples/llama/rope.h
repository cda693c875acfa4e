#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "llama/config.h"

namespace tierstream::llama {

/// The rotary embedding's frequencies in radians a token, [head_size / 2], float32 on the CPU, for a context
/// of `length` tokens (it matters for kDynamicNtk and kLongRope only). Sources: Su et al. 2021, "RoFormer";
/// Peng et al. 2023, "YaRN"; Ding et al. 2024, "LongRoPE"; the scalings as in Hugging Face transformers,
/// modeling_rope_utils.py.
at::Tensor rotary_frequencies(const RopeConfig& rope, std::int64_t head_size, std::int64_t length);

/// Cosine and sine for each position, times the attention factor, each [tokens, 1, head_size]: the two halves
/// of a head rotate together.
struct RotaryTables {
  at::Tensor cosine;
  at::Tensor sine;

  /// Of the positions `begin` to `end` - 1, computed in float32, in the dtype and on the device of `options`.
  static RotaryTables make(const RopeConfig& rope, std::int64_t head_size, std::int64_t begin,
                           std::int64_t end, const at::TensorOptions& options);
  /// `x`: [tokens, heads, head_size]; returns the same shape.
  at::Tensor rotate(const at::Tensor& x) const;
};

}  // namespace tierstream::llama
