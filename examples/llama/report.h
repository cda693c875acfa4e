#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "llama/generate.h"
#include "tools/run_report.h"

namespace tierstream::llama {

struct Results {
  std::vector<std::int64_t> prompt;
  Generation generation;
  std::optional<std::string> text;     ///< of the generation, where there is a tokenizer
  std::optional<RunReport> streaming;  ///< one pass for the prompt, one for each token but the first
  Budget least = {};                   ///< that would have worked, where it was streamed
};

/// For people, after the text; lines of at most 80 columns, but for names.
std::string describe(const Results& results);

/// For programs: a key, once there, keeps its name and meaning. What streaming tells is as in `tierstream
/// run`.
nlohmann::json to_json(const Results& results);

}  // namespace tierstream::llama
