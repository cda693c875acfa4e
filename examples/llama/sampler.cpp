#include "llama/sampler.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <cmath>

namespace tierstream::llama {

Sampler::Sampler(const Sampling& sampling) : sampling_(sampling), random_(sampling.seed) {
  if (!(sampling.temperature >= 0) || !std::isfinite(sampling.temperature)) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("a temperature of {}: 0 or more is possible", sampling.temperature));
  }
  if (!(sampling.top_p > 0) || sampling.top_p > 1) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("a top-p of {}: above 0 and at most 1 is possible", sampling.top_p));
  }
}

std::size_t Sampler::choose(std::span<const float> logits) {
  const auto largest = std::ranges::max_element(logits);
  const bool has_nan = std::ranges::any_of(logits, [](float logit) { return std::isnan(logit); });
  if (has_nan || !std::isfinite(*largest)) {
    throw Error(Errc::kInvalidArgument, "the model's logits are no finite numbers");
  }
  if (sampling_.temperature == 0) return static_cast<std::size_t>(largest - logits.begin());

  heap_.clear();
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp((double{logits[i]} - double{*largest}) / sampling_.temperature);
    heap_.emplace_back(weight, i);
    sum += weight;
  }
  // The most likely come off a heap one by one: they are few, the vocabulary is large.
  const auto less_likely = [](const auto& one, const auto& other) {
    return one.first < other.first || (one.first == other.first && one.second > other.second);
  };
  std::ranges::make_heap(heap_, less_likely);
  auto begin = heap_.end();
  double chosen_sum = 0;
  while (begin != heap_.begin() && chosen_sum < sampling_.top_p * sum) {
    std::pop_heap(heap_.begin(), begin, less_likely);
    chosen_sum += (--begin)->first;
  }
  // 53 bits, as many as a double holds: the standard's distributions differ between libraries.
  double left = static_cast<double>(random_() >> 11) * 0x1p-53 * chosen_sum;
  for (auto token = heap_.end(); token != begin;) {
    --token;
    left -= token->first;
    if (left < 0) return token->second;
  }
  return begin->second;  // rounding
}

}  // namespace tierstream::llama
