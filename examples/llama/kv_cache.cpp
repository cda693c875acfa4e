#include "llama/kv_cache.h"

#include <ATen/ops/empty.h>

namespace tierstream::llama {

KvCache::KvCache(const LlamaConfig& config, std::int64_t capacity, const at::TensorOptions& options) {
  const auto make = [&] { return at::empty({config.key_value_heads, capacity, config.head_size}, options); };
  for (std::int64_t i = 0; i < config.layers; ++i) {
    keys_.push_back(make());
    values_.push_back(make());
  }
}

std::pair<at::Tensor, at::Tensor> KvCache::append(std::size_t layer, const at::Tensor& keys,
                                                  const at::Tensor& values) {
  const std::int64_t tokens = keys.size(1);
  keys_[layer].narrow(1, length_, tokens).copy_(keys);
  values_[layer].narrow(1, length_, tokens).copy_(values);
  return {keys_[layer].narrow(1, 0, length_ + tokens), values_[layer].narrow(1, 0, length_ + tokens)};
}

}  // namespace tierstream::llama
