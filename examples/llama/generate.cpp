#include "llama/generate.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>

#include "tools/timing.h"

namespace tierstream::llama {

void check_prompt(std::span<const std::int64_t> prompt, const LlamaConfig& config) {
  if (prompt.empty()) throw Error(Errc::kInvalidArgument, "the prompt has no tokens");
  for (const std::int64_t id : prompt) {
    if (id >= 0 && id < config.vocabulary_size) continue;
    throw Error(
        Errc::kInvalidArgument,
        fmt::format("the prompt's id {} is outside the vocabulary of {} tokens", id, config.vocabulary_size));
  }
}

Generation generate(LlamaRun& weights, const LlamaFiles& files, const GenerationOptions& options) {
  check_prompt(options.prompt, files.config);
  Sampler sampler(options.sampling);
  const auto prompt_length = static_cast<std::int64_t>(options.prompt.size());
  KvCache cache(files.config, prompt_length + options.max_tokens - 1,
                at::TensorOptions(files.dtype).device(options.device));
  Generation generation;
  std::vector<at::Tensor> kept;

  /// Runs `ids` through the model and chooses what follows.
  const auto step = [&](const std::vector<std::int64_t>& ids) {
    const at::Tensor input = at::tensor(ids, at::kLong).to(options.device);
    const at::Tensor logits =
        weights.forward(input, cache, options.keep_logits ? input.size(0) : 1).cpu().contiguous();
    if (options.on_pass) options.on_pass();
    if (options.keep_logits) kept.push_back(logits);
    const at::Tensor last = logits[-1];
    const auto token = static_cast<std::int64_t>(
        sampler.choose({last.const_data_ptr<float>(), static_cast<std::size_t>(last.numel())}));
    generation.tokens.push_back(token);
    if (options.on_token) options.on_token(token);
  };
  const auto ended = [&] {
    return std::ranges::find(files.config.end_tokens, generation.tokens.back()) !=
           files.config.end_tokens.end();
  };

  generation.prompt_seconds = seconds_of([&] { step(options.prompt); });
  generation.token_seconds = seconds_of([&] {
    while (std::ssize(generation.tokens) < options.max_tokens && !ended()) step({generation.tokens.back()});
  });
  if (options.keep_logits) generation.logits = at::cat(kept);
  return generation;
}

}  // namespace tierstream::llama
