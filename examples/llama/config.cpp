#include "llama/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "hugging_face/config_fields.h"

namespace tierstream::llama {
namespace {

/// The deepest models have some hundred layers.
constexpr std::int64_t kMaxLayers = 1 << 16;

/// "type" in files of before transformers 4.45.
const char* type_field(const ConfigFields& rope) { return rope.has("rope_type") ? "rope_type" : "type"; }

RopeScaling scaling_of(const ConfigFields& rope) {
  const char* const name = type_field(rope);
  if (!rope.has(name)) return RopeScaling::kNone;
  const std::string type = rope.text(name);
  if (type == "default") return RopeScaling::kNone;
  if (type == "linear") return RopeScaling::kLinear;
  if (type == "dynamic") return RopeScaling::kDynamicNtk;
  if (type == "llama3") return RopeScaling::kLlama3;
  if (type == "yarn") return RopeScaling::kYarn;
  if (type == "longrope") return RopeScaling::kLongRope;
  rope.refuse(
      name,
      fmt::format("is \"{}\", only default, linear, dynamic, llama3, yarn and longrope are built", type));
}

/// Where files have it, in the order in which transformers looks for it.
std::int64_t read_trained_length(const ConfigFields& fields, const ConfigFields& rope) {
  const char* const name = "original_max_position_embeddings";
  if (fields.has(name)) return fields.size(name);
  return rope.has(name) ? rope.size(name) : fields.size("max_position_embeddings");
}

double read_factor(const ConfigFields& rope) {
  const double factor = rope.positive("factor");
  if (factor < 1) rope.refuse("factor", "is below 1");
  return factor;
}

/// The factor, or where there is none, by how much the model's length is more than the training's.
double read_factor_or_ratio(const ConfigFields& fields, const ConfigFields& rope,
                            std::int64_t trained_length) {
  if (rope.has("factor")) return read_factor(rope);
  const std::int64_t length = fields.size("max_position_embeddings");
  if (length < trained_length) {
    fields.refuse("max_position_embeddings",
                  fmt::format("is {}, below the {} of the training", length, trained_length));
  }
  return static_cast<double>(length) / static_cast<double>(trained_length);
}

/// A positive number; 0 counts as missing, as it does in transformers.
double nonzero_or(const ConfigFields& rope, const char* name, double otherwise) {
  return rope.value(name) == 0 ? otherwise : rope.positive_or(name, otherwise);
}

void read_yarn(RopeConfig& rope, const ConfigFields& fields, const ConfigFields& parameters) {
  if (rope.theta <= 1) {
    parameters.refuse(type_field(parameters),
                      fmt::format("needs a \"rope_theta\" above 1, not {}", rope.theta));
  }
  rope.trained_length = read_trained_length(fields, parameters);
  rope.factor = read_factor_or_ratio(fields, parameters, rope.trained_length);
  rope.low_turns = nonzero_or(parameters, "beta_slow", 1);
  rope.high_turns = nonzero_or(parameters, "beta_fast", 32);
  if (rope.high_turns < rope.low_turns) parameters.refuse("beta_fast", "is below \"beta_slow\"");
  rope.whole_places = parameters.flag_or("truncate", true);
  // As in the paper; with two weights, as DeepSeek has it.
  const auto attention = [&](double weight) { return 0.1 * weight * std::log(rope.factor) + 1; };
  const double weight = nonzero_or(parameters, "mscale", 0);
  const double weight_of_all = nonzero_or(parameters, "mscale_all_dim", 0);
  const bool weighted = weight > 0 && weight_of_all > 0;
  rope.attention_factor = parameters.positive_or(
      "attention_factor", weighted ? attention(weight) / attention(weight_of_all) : attention(1));
}

std::vector<double> read_factors(const ConfigFields& rope, const char* name, std::int64_t count) {
  const nlohmann::json list = rope.value(name);
  const auto is_positive = [](const nlohmann::json& factor) {
    return factor.is_number() && factor > 0 && std::isfinite(factor.get<double>());
  };
  if (!list.is_array() || std::ssize(list) != count || !std::ranges::all_of(list, is_positive)) {
    rope.refuse(name, fmt::format("is no list of {} positive numbers", count));
  }
  return list.get<std::vector<double>>();
}

void read_long_rope(RopeConfig& rope, const ConfigFields& fields, const ConfigFields& parameters,
                    std::int64_t head_size) {
  rope.trained_length = read_trained_length(fields, parameters);
  rope.short_factors = read_factors(parameters, "short_factor", head_size / 2);
  rope.long_factors = read_factors(parameters, "long_factor", head_size / 2);
  if (parameters.has("attention_factor")) {
    rope.attention_factor = parameters.positive("attention_factor");
    return;
  }
  if (rope.trained_length == 1) {
    parameters.refuse(type_field(parameters), "needs \"attention_factor\" or a training's length above 1");
  }
  const double factor = read_factor_or_ratio(fields, parameters, rope.trained_length);
  rope.attention_factor = std::sqrt(1 + std::log(factor) / std::log(rope.trained_length));
}

RopeConfig read_rope(const ConfigFields& fields, std::int64_t head_size) {
  RopeConfig rope{.theta = fields.positive_or("rope_theta", RopeConfig{}.theta)};
  // Older files have the first name, and there it wins.
  const char* const name = fields.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  if (!fields.has(name)) return rope;
  const ConfigFields parameters = fields.object(name);
  rope.theta = parameters.positive_or("rope_theta", rope.theta);
  rope.scaling = scaling_of(parameters);
  if (parameters.positive_or("partial_rotary_factor", 1) != 1) {
    parameters.refuse("partial_rotary_factor", "is not 1: heads that rotate in part are not built");
  }
  switch (rope.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      rope.factor = read_factor(parameters);
      break;
    case RopeScaling::kDynamicNtk:
      rope.factor = read_factor(parameters);
      rope.trained_length = fields.size("max_position_embeddings");
      if (head_size == 2) parameters.refuse(type_field(parameters), "needs heads larger than 2");
      break;
    case RopeScaling::kLlama3:
      rope.factor = read_factor(parameters);
      rope.trained_length = read_trained_length(fields, parameters);
      rope.low_turns = parameters.positive("low_freq_factor");
      rope.high_turns = parameters.positive("high_freq_factor");
      if (rope.high_turns <= rope.low_turns) {
        parameters.refuse("high_freq_factor", "is not above \"low_freq_factor\"");
      }
      break;
    case RopeScaling::kYarn:
      read_yarn(rope, fields, parameters);
      break;
    case RopeScaling::kLongRope:
      read_long_rope(rope, fields, parameters, head_size);
      break;
  }
  return rope;
}

/// By layer; files that list no types have a rule by `model_type`.
std::vector<std::int64_t> read_windows(const ConfigFields& fields, const std::string& model_type,
                                       std::int64_t layers) {
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  const bool used =
      model_type == "mistral" || (model_type == "qwen2" && fields.flag_or("use_sliding_window", false));
  if (!used || !fields.has("sliding_window")) return windows;
  const std::int64_t window = fields.size("sliding_window");
  if (model_type == "mistral") {
    std::ranges::fill(windows, window);
    return windows;
  }
  if (!fields.has("layer_types")) {
    const nlohmann::json first = fields.value("max_window_layers");
    if (!first.is_number_unsigned()) fields.refuse("max_window_layers", "is missing or not a number");
    for (std::size_t i = first.get<std::size_t>(); i < windows.size(); ++i) windows[i] = window;
    return windows;
  }
  const nlohmann::json types = fields.value("layer_types");
  if (!types.is_array() || types.size() != windows.size()) {
    fields.refuse("layer_types", fmt::format("is no list of {} types", layers));
  }
  for (std::size_t i = 0; i < windows.size(); ++i) {
    if (types[i] == "sliding_attention") {
      windows[i] = window;
    } else if (types[i] != "full_attention") {
      fields.refuse("layer_types", fmt::format("has {}, which is not built", types[i].dump()));
    }
  }
  return windows;
}

/// One id, a list of them, or none.
std::vector<std::int64_t> read_end_tokens(const ConfigFields& fields) {
  const nlohmann::json value = fields.value("eos_token_id");
  const nlohmann::json list = value.is_array() ? value : nlohmann::json::array({value});
  std::vector<std::int64_t> ids;
  for (const nlohmann::json& id : list) {
    if (id.is_null()) continue;
    if (!id.is_number_integer()) fields.refuse("eos_token_id", fmt::format("is {}, no token", value.dump()));
    ids.push_back(id.get<std::int64_t>());
  }
  return ids;
}

void check_heads(const LlamaConfig& config, const ConfigFields& fields) {
  if (config.heads % config.key_value_heads != 0) {
    fields.refuse("num_key_value_heads", fmt::format("is {}, which does not divide the {} heads",
                                                     config.key_value_heads, config.heads));
  }
  if (config.head_size % 2 != 0) {
    fields.refuse("head_dim", fmt::format("is {}: rotary embeddings need pairs", config.head_size));
  }
  if (config.heads * config.head_size > ConfigFields::kMaxSize) {
    fields.refuse("num_attention_heads",
                  fmt::format("is {}, too many of size {}", config.heads, config.head_size));
  }
}

}  // namespace

LlamaConfig LlamaConfig::load(const std::filesystem::path& directory) {
  const ConfigFields fields = ConfigFields::load(directory / "config.json");
  const std::string model_type = fields.text("model_type");
  if (model_type != "llama" && model_type != "mistral" && model_type != "qwen2") {
    fields.refuse("model_type",
                  fmt::format("is \"{}\", only llama, mistral and qwen2 are built", model_type));
  }
  fields.require("hidden_act", "silu");

  LlamaConfig config;
  config.vocabulary_size = fields.size("vocab_size");
  config.hidden_size = fields.size("hidden_size");
  config.intermediate_size = fields.size("intermediate_size");
  config.layers = fields.size("num_hidden_layers");
  if (config.layers > kMaxLayers) {
    fields.refuse("num_hidden_layers", fmt::format("is {}, more than {}", config.layers, kMaxLayers));
  }
  config.heads = fields.size("num_attention_heads");
  config.key_value_heads = fields.size_or("num_key_value_heads", config.heads);
  if (fields.has("head_dim")) {
    config.head_size = fields.size("head_dim");
  } else if (config.hidden_size % config.heads == 0) {
    config.head_size = config.hidden_size / config.heads;
  } else {
    fields.refuse("num_attention_heads", fmt::format("is {}, which does not divide the hidden size {}",
                                                     config.heads, config.hidden_size));
  }
  check_heads(config, fields);
  config.rope = read_rope(fields, config.head_size);
  config.norm_epsilon = fields.positive("rms_norm_eps");
  const bool llama_bias = model_type == "llama" && fields.flag_or("attention_bias", false);
  config.query_key_value_bias = llama_bias || model_type == "qwen2";
  config.attention_output_bias = llama_bias;
  config.mlp_bias = model_type == "llama" && fields.flag_or("mlp_bias", false);
  config.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
  config.windows = read_windows(fields, model_type, config.layers);

  const auto generation = ConfigFields::load_if_there(directory / "generation_config.json");
  config.end_tokens = read_end_tokens(generation && generation->has("eos_token_id") ? *generation : fields);
  return config;
}

}  // namespace tierstream::llama
