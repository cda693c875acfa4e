#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "llama/sampler.h"
#include "llama/weights.h"

namespace tierstream::llama {

struct GenerationOptions {
  std::vector<std::int64_t> prompt;  ///< at least one id, all in the vocabulary
  std::int64_t max_tokens = 32;      ///< at least 1
  Sampling sampling = {};
  bool keep_logits = false;  ///< of every position, the prompt's included
  at::Device device = at::kCPU;
  std::function<void(std::int64_t token)> on_token =
      {};                              ///< called with each as it is chosen; empty: nothing
  std::function<void()> on_pass = {};  ///< called after each walk through the model
};

struct Generation {
  std::vector<std::int64_t> tokens;  ///< an end token is the last of them
  double prompt_seconds = 0;         ///< until the first token was known
  double token_seconds = 0;          ///< of all others together
  at::Tensor logits;                 ///< float32 [positions, vocabulary] on the CPU, if kept
};

/// Throws Error kInvalidArgument naming the first id outside the vocabulary, or when there is none.
void check_prompt(std::span<const std::int64_t> prompt, const LlamaConfig& config);

/// Runs the prompt through the model, then one token after the other, until `max_tokens` are there or one of
/// the configuration's end tokens is. Throws what the parts throw, and what check_prompt does.
Generation generate(LlamaRun& weights, const LlamaFiles& files, const GenerationOptions& options);

}  // namespace tierstream::llama
