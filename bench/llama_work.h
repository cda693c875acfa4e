#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "bench/bench_checkpoint.h"
#include "llama/kv_cache.h"
#include "llama/weights.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream {

/// A synthetic checkpoint as a Llama of 32 heads, 8 of keys and values, in bfloat16.
llama::LlamaFiles open_llama(const BenchCheckpoint& checkpoint, const SyntheticSpec& spec,
                             const StorageOptions& storage = {});

/// What every subject computes, and what comes out: the logits behind the last of `tokens` tokens, which see
/// `before` earlier ones.
class LlamaWork {
 public:
  /// `plain` computes what is expected.
  LlamaWork(const char* name, const llama::LlamaFiles& files, std::int64_t tokens, std::int64_t before,
            llama::LlamaRun& plain, at::Device device);

  const char* name() const noexcept { return name_; }

  /// Seconds until the logits are on the CPU. Throws Error kInternal when other bits come out than of
  /// `plain`.
  double time(llama::LlamaRun& weights) const;
  /// The same in a steady state: a run before it, untimed, leaves staged and cached what one leaves to the
  /// next.
  double time_steady(llama::LlamaRun& weights) const {
    time(weights);
    return time(weights);
  }

 private:
  at::Tensor run(llama::LlamaRun& weights) const;

  const char* name_;
  at::Tensor ids_;
  llama::KvCache before_;
  at::Tensor expected_;
};

}  // namespace tierstream
