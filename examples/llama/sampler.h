#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace tierstream::llama {

struct Sampling {
  double temperature = 0;  ///< divides the logits; 0: greedy, the most likely token always
  double top_p = 1;  ///< above 0, at most 1: choose among the most likely tokens that have this much together
  std::uint64_t seed = 0;
};

/// Chooses tokens from logits. The same seed and logits give the same tokens, with any standard library.
/// Source of top-p: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
///
/// Threads: one at a time.
class Sampler {
 public:
  /// Throws Error kInvalidArgument for a temperature or a top_p out of range.
  explicit Sampler(const Sampling& sampling);

  /// `logits`: one for each token of the vocabulary. Of equal ones, the first counts as the more likely.
  /// Throws Error kInvalidArgument when one is no number, or the largest is infinite.
  std::size_t choose(std::span<const float> logits);

 private:
  Sampling sampling_;
  std::mt19937_64 random_;
  std::vector<std::pair<double, std::size_t>> heap_;  ///< kept from choice to choice for its memory
};

}  // namespace tierstream::llama
