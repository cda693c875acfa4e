#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "llama/config.h"

namespace tierstream::llama {

/// Keys and values of the tokens so far, so that each token goes through the model once. Memory for
/// `capacity` tokens is taken at once: 2 x layers x key_value_heads x capacity x head_size elements, outside
/// all budgets.
///
/// Threads: one at a time.
class KvCache {
 public:
  KvCache(const LlamaConfig& config, std::int64_t capacity, const at::TensorOptions& options);

  std::int64_t length() const noexcept { return length_; }

  /// Writes keys and values, [key_value_heads, tokens, head_size], of the tokens from `length` on; returns
  /// those of all tokens up to these, views of the same layout.
  std::pair<at::Tensor, at::Tensor> append(std::size_t layer, const at::Tensor& keys,
                                           const at::Tensor& values);
  /// Every layer has appended this many tokens.
  void advance(std::int64_t tokens) noexcept { length_ += tokens; }

 private:
  std::int64_t length_ = 0;
  std::vector<at::Tensor> keys_;  ///< by layer, [key_value_heads, capacity, head_size]
  std::vector<at::Tensor> values_;
};

}  // namespace tierstream::llama
