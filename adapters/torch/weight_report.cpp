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

void append(std::string& text, std::string_view kind, std::span<const WeightReport::Entry> entries) {
  if (entries.empty()) return;
  std::vector<std::string> listed;
  for (const auto& [name, what] : entries.first(std::min(entries.size(), kListedNames))) {
    listed.push_back(what.empty() ? name : name + ": " + what);
  }
  if (entries.size() > listed.size()) {
    listed.push_back(fmt::format("and {} more", entries.size() - listed.size()));
  }
  text +=
      fmt::format("{}{} {} ({})", text.empty() ? "" : ", ", entries.size(), kind, fmt::join(listed, "; "));
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
  if (report.module_layers != report.checkpoint_layers) {
    text = fmt::format("the module has {}, the checkpoint {}", counted(report.module_layers, "layer"),
                       report.checkpoint_layers);
  }
  append(text, "missing in the checkpoint", report.missing);
  append(text, "unknown to the module", report.unexpected);
  append(text, "of other shape or dtype", report.unlike);
  append(text, "not streamed", report.unstreamed);
  return text;
}

WeightMismatch::WeightMismatch(const std::string& message, WeightReport report)
    : Error(Errc::kWeightMismatch, message + describe(report)), report_(std::move(report)) {}

}  // namespace tierstream
