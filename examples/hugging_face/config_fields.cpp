#include "hugging_face/config_fields.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <cerrno>
#include <cmath>
#include <fstream>
#include <utility>

namespace tierstream {

using nlohmann::json;

ConfigFields::ConfigFields(json fields, std::string file, std::string prefix)
    : fields_(std::move(fields)), file_(std::move(file)), prefix_(std::move(prefix)) {}

ConfigFields ConfigFields::load(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) {
    throw Error(Errc::kOpenFailed, "cannot open the model's configuration", {.file = path.string()},
                {errno, std::generic_category()});
  }
  json fields = json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!fields.is_object()) throw Error(Errc::kInvalidArgument, "is no JSON object", {.file = path.string()});
  return {std::move(fields), path.string(), ""};
}

std::optional<ConfigFields> ConfigFields::load_if_there(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return {};
  return load(path);
}

bool ConfigFields::has(const char* name) const {
  const auto found = fields_.find(name);
  return found != fields_.end() && !found->is_null();
}

std::int64_t ConfigFields::size(const char* name) const {
  const json& value = get(name);
  // A number above 2^63 would be taken for a negative one, and is refused with it.
  const std::int64_t number = value.is_number_integer() ? value.get<std::int64_t>() : 0;
  if (number < 1 || number > kMaxSize) refuse(name, fmt::format("is {}, not a size", value.dump()));
  return number;
}

std::int64_t ConfigFields::size_or(const char* name, std::int64_t otherwise) const {
  return has(name) ? size(name) : otherwise;
}

double ConfigFields::positive(const char* name) const {
  const json& value = get(name);
  const double number = value.is_number() ? value.get<double>() : 0;
  if (!(number > 0) || !std::isfinite(number)) {
    refuse(name, fmt::format("is {}, not a positive number", value.dump()));
  }
  return number;
}

double ConfigFields::positive_or(const char* name, double otherwise) const {
  return has(name) ? positive(name) : otherwise;
}

bool ConfigFields::flag_or(const char* name, bool otherwise) const {
  if (!has(name)) return otherwise;
  const json& value = get(name);
  if (!value.is_boolean()) refuse(name, fmt::format("is {}, neither true nor false", value.dump()));
  return value.get<bool>();
}

std::string ConfigFields::text(const char* name) const {
  const json& value = get(name);
  if (!value.is_string()) refuse(name, fmt::format("is {}, not a text", value.dump()));
  return value.get<std::string>();
}

json ConfigFields::value(const char* name) const { return has(name) ? get(name) : json(); }

ConfigFields ConfigFields::object(const char* name) const {
  const json& value = get(name);
  if (!value.is_object()) refuse(name, fmt::format("is {}, no object", value.dump()));
  return {value, file_, prefix_ + name + "."};
}

void ConfigFields::require(const char* name, const char* supported) const {
  if (get(name) != supported) {
    refuse(name, fmt::format("is {}, only \"{}\" is built", get(name).dump(), supported));
  }
}

void ConfigFields::refuse(const char* name, const std::string& what) const {
  throw Error(Errc::kInvalidArgument, fmt::format("\"{}{}\" {}", prefix_, name, what), {.file = file_});
}

const json& ConfigFields::get(const char* name) const {
  const auto found = fields_.find(name);
  if (found == fields_.end()) refuse(name, "is missing");
  return *found;
}

}  // namespace tierstream
