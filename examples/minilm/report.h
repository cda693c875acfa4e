#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runs.h"

namespace tierstream::minilm {

struct Input {
  std::vector<std::string> sentences;
  std::vector<std::vector<std::int64_t>> token_ids;  ///< one list a sentence
};

struct Results {
  const Input& input;
  std::uint64_t weight_bytes;
  std::span<const Run> runs;  ///< the first is the reference
};

/// Every run gave the bits of the reference, in every pass.
bool are_bit_equal(std::span<const Run> runs);

/// For people: the similarities, then the runs side by side; at most 80 columns.
std::string describe(const Results& results);

/// One object on one line.
std::string to_json(const Results& results);

}  // namespace tierstream::minilm
