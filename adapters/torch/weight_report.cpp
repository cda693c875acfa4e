#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/weight_report.h>

#include <algorithm>
#include <span>
#include <utility>

namespace tierstream {
namespace {

/// More names than this are counted, not listed.
constexpr std::size_t kListedNames = 5;

void append(std::string& text, std::string_view kind, const std::vector<std::string>& names) {
  if (names.empty()) return;
  const auto listed = std::span(names).first(std::min(names.size(), kListedNames));
  text += fmt::format("{}{} {} ({}", text.empty() ? "" : ", ", names.size(), kind, fmt::join(listed, "; "));
  if (names.size() > listed.size()) text += fmt::format("; and {} more", names.size() - listed.size());
  text += ")";
}

}  // namespace

std::function<std::string(std::string_view)> rename_prefixes(
    std::vector<std::pair<std::string, std::string>> rules) {
  return [rules = std::move(rules)](std::string_view name) {
    for (const auto& [from, to] : rules) {
      if (name.starts_with(from)) return to + std::string(name.substr(from.size()));
    }
    return std::string(name);
  };
}

std::string describe(const WeightReport& report) {
  std::string text;
  append(text, "missing in the checkpoint", report.missing);
  append(text, "unknown to the module", report.unexpected);
  append(text, "of other shape or dtype", report.unlike);
  return text;
}

}  // namespace tierstream
