#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <concepts>
#include <string>
#include <system_error>

namespace tierstream {

/// For an option's value: refuses what is no decimal number, and numbers outside `least` to `most`, each in
/// words of its own. CLI::Range has the same for both.
template <typename Number>
CLI::Validator number_range(Number least, Number most) {
  const auto read = []<typename Value>(const std::string& text, Value& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return end == text.data() + text.size() ? error : std::errc::invalid_argument;
  };
  const auto refusal = [=](const std::string& text) -> std::string {
    double any = 0;
    if (read(text, any) == std::errc::invalid_argument) return fmt::format("\"{}\" is not a number", text);
    Number value{};
    if (read(text, value) == std::errc{} && value >= least && value <= most) return {};
    const char* const kind = std::integral<Number> ? "whole number" : "number";
    return fmt::format("{} is not a {} from {} to {}", text, kind, least, most);
  };
  return CLI::Validator([=](std::string& text) { return refusal(text); },
                        CLI::Range(least, most).get_description());
}

}  // namespace tierstream
