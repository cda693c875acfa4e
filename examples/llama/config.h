#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace tierstream::llama {

/// How rotary frequencies are stretched to contexts longer than those of the training.
enum class RopeScaling : std::uint8_t {
  kNone,
  kLinear,      ///< all frequencies divided by `factor`
  kDynamicNtk,  ///< a larger base beyond `trained_length`, by the length so far
  kLlama3,      ///< low frequencies divided by `factor`, high ones kept, those between blended
  kYarn,        ///< the same, blended by their place in the list
  kLongRope,    ///< each frequency divided by a factor of its own, of two lists by the length so far
};

struct RopeConfig {
  double theta = 10'000;  ///< the base
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;                ///< at least 1; of all scalings but kLongRope
  std::int64_t trained_length = 0;  ///< in tokens; of all scalings but kLinear
  // Of kLlama3 and kYarn: what counts as low and as high, in turns over `trained_length`.
  double low_turns = 1;
  double high_turns = 4;
  bool whole_places = true;     ///< of kYarn: the blended part begins and ends at whole places in the list
  double attention_factor = 1;  ///< of kYarn and kLongRope: multiplies cosines and sines
  std::vector<double> short_factors = {};  ///< of kLongRope up to `trained_length`, [head_size / 2]
  std::vector<double> long_factors = {};   ///< beyond it
};

/// What a Hugging Face directory says about a model of the Llama family: Llama, Mistral or Qwen2.
struct LlamaConfig {
  std::int64_t vocabulary_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;            ///< of queries
  std::int64_t key_value_heads = 0;  ///< a divisor of `heads`
  std::int64_t head_size = 0;        ///< even
  double norm_epsilon = 1e-6;
  RopeConfig rope = {};
  bool query_key_value_bias = false;
  bool attention_output_bias = false;
  bool mlp_bias = false;
  bool tied_embeddings = false;  ///< the head's weight is the embedding's
  /// By layer: a token sees itself and those before it, this many in all; 0: all of them.
  std::vector<std::int64_t> windows = {};
  std::vector<std::int64_t> end_tokens = {};  ///< a generation ends with any of them

  /// Reads config.json, and generation_config.json where there is one.
  /// Throws Error kInvalidArgument or kOpenFailed naming the file and the field.
  static LlamaConfig load(const std::filesystem::path& directory);
};

}  // namespace tierstream::llama
