#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace tierstream {

/// The fields of a model's JSON file (config.json and its like), each checked as it is read.
///
/// A value. Errors: Error kInvalidArgument naming the file and the field.
class ConfigFields {
 public:
  /// Throws Error kOpenFailed, or kInvalidArgument for what is no JSON object.
  static ConfigFields load(const std::filesystem::path& file);
  /// The same, or nothing where there is no such file.
  static std::optional<ConfigFields> load_if_there(const std::filesystem::path& file);

  /// The field is there and not null.
  bool has(const char* name) const;
  /// A whole number from 1 to kMaxSize.
  std::int64_t size(const char* name) const;
  /// The same, or `otherwise` where the field is missing or null.
  std::int64_t size_or(const char* name, std::int64_t otherwise) const;
  /// A number above 0.
  double positive(const char* name) const;
  double positive_or(const char* name, double otherwise) const;
  bool flag_or(const char* name, bool otherwise) const;
  std::string text(const char* name) const;
  /// As it stands; null where it is missing.
  nlohmann::json value(const char* name) const;
  /// The object in field `name`; messages call its fields `name`.x.
  ConfigFields object(const char* name) const;

  /// Refuses all but `supported`.
  void require(const char* name, const char* supported) const;
  [[noreturn]] void refuse(const char* name, const std::string& what) const;

  /// No real model comes near; larger values would only ask for absurd memory.
  static constexpr std::int64_t kMaxSize = 1 << 24;

 private:
  ConfigFields(nlohmann::json fields, std::string file, std::string prefix);
  const nlohmann::json& get(const char* name) const;

  nlohmann::json fields_;
  std::string file_;
  std::string prefix_;
};

}  // namespace tierstream
