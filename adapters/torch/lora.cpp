#include <fmt/format.h>
#include <tierstream/adapters/torch/lora.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/io/error.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <string_view>
#include <utility>

#include "source_views.h"

namespace tierstream {
namespace {

using nlohmann::json;

constexpr std::string_view kPrefix = "base_model.model.";

/// What adapter_config.json says of the scaling.
class Config {
 public:
  explicit Config(const std::string& path) : path_(path) {
    std::ifstream file(path);
    if (!file)
      throw Error(Errc::kOpenFailed, "cannot open", {.file = path}, {errno, std::generic_category()});
    config_ = json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (!config_.is_object()) refuse("is not a JSON object");
    if (const json type = config_.value("peft_type", json()); type != "LORA") {
      refuse(type.is_null() ? "has no peft_type"
                            : fmt::format("has peft_type {}; only \"LORA\" can be applied", type.dump()));
    }
    constexpr std::array kUnsupported = {
        std::pair{"use_dora", "DoRA"},
        std::pair{"fan_in_fan_out", "weights that are stored transposed, as GPT-2's"},
        std::pair{"modules_to_save", "modules that were trained as a whole"},
        std::pair{"layer_replication", "layers that are repeated"},
        std::pair{"alora_invocation_tokens", "Activated LoRA"},
    };
    for (const auto& [key, method] : kUnsupported) {
      const json value = config_.value(key, json());
      if (!value.is_null() && value != false && !value.empty()) refuse_method(method, key);
    }
    if (config_.value("bias", json("none")) != "none") refuse_method("trained biases", "bias");
    const json begin = config_.value("init_lora_weights", json(true));
    if (begin.is_string() && begin != "gaussian" && begin != "orthogonal" && begin != "eva") {
      refuse_method(begin.dump() + ", which changes the model's own weights at its beginning",
                    "init_lora_weights");
    }
  }

  double scaling_of(std::string_view module) const {
    const double rank = number("r", "rank_pattern", module);
    const double alpha = number("lora_alpha", "alpha_pattern", module);
    if (!(rank > 0) || !std::isfinite(alpha)) refuse("has an r or lora_alpha that is no usable number");
    return alpha / (config_.value("use_rslora", json(false)) == true ? std::sqrt(rank) : rank);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(Errc::kInvalidArgument, what, {.file = path_});
  }

  [[noreturn]] void refuse_method(const std::string& method, const char* key) const {
    refuse(fmt::format("asks for {} ({}); only LoRA itself can be applied", method, key));
  }

  /// `key`, unless a pattern that the module's path ends in says otherwise.
  double number(const char* key, const char* patterns, std::string_view module) const {
    json value = config_.value(key, json());
    const json by_pattern = config_.value(patterns, json::object());
    for (const auto& [pattern, other] : by_pattern.items()) {
      if (matches(pattern, module)) {
        value = other;
        break;
      }
    }
    return value.is_number() ? value.get<double>() : std::nan("");
  }

  bool matches(const std::string& pattern, std::string_view module) const {
    try {
      return std::regex_match(module.begin(), module.end(), std::regex("(.*\\.)?(" + pattern + ")"));
    } catch (const std::regex_error&) {
      refuse(fmt::format("has a pattern that is no regular expression: {}", pattern));
    }
  }

  std::string path_;
  json config_;
};

/// Of base_model.model.NAME.lora_A.weight: NAME, and whether it is A.
struct Part {
  std::string module;
  bool is_a;
};

Part part_of(const std::string& tensor, const std::string& file) {
  for (const bool is_a : {true, false}) {
    const std::string_view suffix = is_a ? ".lora_A.weight" : ".lora_B.weight";
    if (tensor.starts_with(kPrefix) && tensor.ends_with(suffix) &&
        tensor.size() > kPrefix.size() + suffix.size()) {
      return {tensor.substr(kPrefix.size(), tensor.size() - kPrefix.size() - suffix.size()), is_a};
    }
  }
  throw Error(Errc::kInvalidArgument, "is not the A or B of a linear layer",
              {.file = file, .tensor = tensor});
}

}  // namespace

Lora Lora::open(const std::string& directory) {
  const Config config(directory + "/adapter_config.json");
  const std::string file = directory + "/adapter_model.safetensors";
  const Checkpoint checkpoint = Checkpoint::open(file);
  const LayerTable table{checkpoint.files(), {}, {}, {}};
  SourceViews views(table);

  std::map<std::string, LoraWeight> by_module;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    const Part part = part_of(tensor.name, file);
    LoraWeight& weight = by_module[part.module];
    at::Tensor& matrix = part.is_a ? weight.a : weight.b;
    matrix = views.find(
        {tensor.name, tensor.dtype, tensor.shape, tensor.bytes, FileExtent{tensor.file, tensor.offset}});
    if (!matrix.defined() || matrix.dim() != 2 || !c10::isFloatingType(matrix.scalar_type())) {
      throw Error(Errc::kInvalidArgument, "is no matrix that can be used",
                  {.file = file, .tensor = tensor.name});
    }
  }
  Lora lora;
  for (auto& [module, weight] : by_module) {
    if (!weight.a.defined() || !weight.b.defined() || weight.a.size(0) != weight.b.size(1)) {
      throw Error(Errc::kInvalidArgument, "has no A and B of one rank", {.file = file, .tensor = module});
    }
    weight.name = module + ".weight";
    weight.scaling = config.scaling_of(module);
    lora.weights.push_back(std::move(weight));
  }
  return lora;
}

}  // namespace tierstream
