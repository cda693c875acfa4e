#include "llama/report.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include "tools/path_report.h"
#include "tools/plan_report.h"
#include "tools/timing.h"

namespace tierstream::llama {
namespace {

using nlohmann::json;

/// Of the tokens after the first, which the prompt's pass gives; 0: there is none.
double tokens_per_second(const Generation& generation) {
  const std::size_t passes = generation.tokens.size() - 1;
  return passes == 0 ? 0 : static_cast<double>(passes) / generation.token_seconds;
}

/// The mean over the same tokens; where the prompt's pass is the only one, its bytes.
TierBytes bytes_per_token(const std::vector<PassReport>& passes) {
  if (passes.size() == 1) return passes.front().stats.bytes;
  TierBytes sum;
  for (std::size_t i = 1; i < passes.size(); ++i) sum += passes[i].stats.bytes;
  const std::uint64_t count = passes.size() - 1;
  return {.disk = sum.disk / count,
          .page_cache = sum.page_cache / count,
          .pinned = sum.pinned / count,
          .gpu = sum.gpu / count};
}

}  // namespace

std::string describe(const Results& results) {
  const Generation& generation = results.generation;
  std::string text = fmt::format("prompt  {} in {}\n", counted(results.prompt.size(), "token"),
                                 format_seconds(generation.prompt_seconds));
  const double rate = tokens_per_second(generation);
  text += fmt::format("tokens  {}", generation.tokens.size());
  if (rate > 0) {
    text += fmt::format(", all but the first in {}: {:.2f} a second",
                        format_seconds(generation.token_seconds), rate);
  }
  text += '\n';
  if (!results.streaming) return text;
  const RunReport& streaming = *results.streaming;
  text += fmt::format("a token {}\n", tierstream::describe(bytes_per_token(streaming.passes)));
  text += describe_path(streaming.path, streaming.ring_refusal);
  return text + describe_pass(streaming.passes.size(), streaming.passes.back(), streaming.rates) +
         describe_end(streaming);
}

json to_json(const Results& results) {
  const Generation& generation = results.generation;
  json object = results.streaming ? tierstream::to_json(*results.streaming) : json::object();
  for (const char* const not_measured : {"first_layer_seconds", "verified_tensors"})
    object.erase(not_measured);
  object["prompt"] = results.prompt;
  object["tokens"] = generation.tokens;
  object["text"] = results.text ? json(*results.text) : json();
  object["prompt_seconds"] = generation.prompt_seconds;
  object["token_seconds"] = generation.token_seconds;
  const double rate = tokens_per_second(generation);
  object["tokens_per_second"] = rate > 0 ? json(rate) : json();
  if (results.streaming) {
    object["bytes_per_token"] = tierstream::to_json(bytes_per_token(results.streaming->passes));
    object["least"] = tierstream::to_json(results.least);
  }
  return object;
}

}  // namespace tierstream::llama
