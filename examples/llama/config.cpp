#include "llama/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "hugging_face/config_fields.h"

namespace tierstream::llama {
namespace {

/// The deepest models have some hundred layers.
constexpr std::int64_t kMaxLayers = 1 << 16;

RopeScaling scaling_of(const ConfigFields& rope) {
  // "type" in files of before transformers 4.45.
  const char* const name = rope.has("rope_type") ? "rope_type" : "type";
  if (!rope.has(name)) return RopeScaling::kNone;
  const std::string type = rope.text(name);
  if (type == "default") return RopeScaling::kNone;
  if (type == "linear") return RopeScaling::kLinear;
  if (type == "dynamic") return RopeScaling::kDynamicNtk;
  if (type == "llama3") return RopeScaling::kLlama3;
  rope.refuse(name, fmt::format("is \"{}\", only default, linear, dynamic and llama3 are built", type));
}

RopeConfig read_rope(const ConfigFields& fields) {
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
  if (rope.scaling == RopeScaling::kNone) return rope;
  rope.factor = parameters.positive("factor");
  if (rope.factor < 1) parameters.refuse("factor", "is below 1");
  if (rope.scaling == RopeScaling::kDynamicNtk) rope.max_positions = fields.size("max_position_embeddings");
  if (rope.scaling == RopeScaling::kLlama3) {
    rope.low_frequency_factor = parameters.positive("low_freq_factor");
    rope.high_frequency_factor = parameters.positive("high_freq_factor");
    if (rope.high_frequency_factor <= rope.low_frequency_factor) {
      parameters.refuse("high_freq_factor", "is not above \"low_freq_factor\"");
    }
    rope.original_positions = parameters.has("original_max_position_embeddings")
                                  ? parameters.size("original_max_position_embeddings")
                                  : fields.size("max_position_embeddings");
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
  if (config.head_size == 2 && config.rope.scaling == RopeScaling::kDynamicNtk) {
    fields.refuse("head_dim", "is 2: the dynamic scaling needs more");
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
  config.rope = read_rope(fields);
  check_heads(config, fields);
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
