#include "tools/run_report.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <utility>

#include "tools/path_report.h"
#include "tools/plan_report.h"
#include "tools/timing.h"

namespace tierstream {
namespace {

std::string join_nonzero(std::initializer_list<std::pair<const char*, std::uint64_t>> parts) {
  std::string text;
  for (const auto& [name, bytes] : parts) {
    if (bytes > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, format_bytes(bytes));
  }
  return text.empty() ? "nothing" : text;
}

std::string join_stalls(const StallSeconds& stall) {
  std::string text;
  for (const auto& [name, seconds] : {std::pair{"disk", stall.disk}, std::pair{"ring", stall.ring},
                                      std::pair{"copy", stall.copy}, std::pair{"slot", stall.slot}}) {
    if (seconds >= 0.0005) text += fmt::format("{}{} {:.3f} s", text.empty() ? ": " : ", ", name, seconds);
  }
  return text;
}

std::string describe_page_cache(const RunReport& report) {
  if (report.kept_bytes == 0) return {};
  const PageCacheStatus& status = report.page_cache;
  std::string text =
      fmt::format("kept    {} of pages, {} locked, {} registered\n", format_bytes(report.kept_bytes),
                  format_bytes(status.locked_bytes), format_bytes(status.registered_bytes));
  for (const auto& [wanted, refusal] :
       {std::pair{"locked", status.lock_refusal}, std::pair{"registered", status.registration_refusal}}) {
    if (!refusal.empty()) text += fmt::format("        not all {}: {}\n", wanted, printable(refusal));
  }
  if (status.lost_bytes > 0) {
    text += fmt::format("        lost {} and read them again\n", format_bytes(status.lost_bytes));
  }
  return text;
}

nlohmann::json page_cache_to_json(const RunReport& report) {
  const PageCacheStatus& status = report.page_cache;
  return {{"kept_bytes", report.kept_bytes},
          {"locked_bytes", status.locked_bytes},
          {"lock_refusal", status.lock_refusal},
          {"registered_bytes", status.registered_bytes},
          {"registration_refusal", status.registration_refusal},
          {"lost_bytes", status.lost_bytes}};
}

}  // namespace

std::string describe_pass(std::size_t number, const PassStats& pass) {
  const TierBytes& bytes = pass.bytes;
  const auto moved = static_cast<double>(bytes.disk + bytes.page_cache + bytes.pinned);
  const std::string rate =
      moved > 0 && pass.seconds > 0 ? fmt::format(", {:.2f} GB/s", moved / pass.seconds / 1e9) : "";
  return fmt::format("pass {:<3}{}{}: {}\n        stalled {}{}\n", number, format_seconds(pass.seconds), rate,
                     join_nonzero({{"disk", bytes.disk},
                                   {"page_cache", bytes.page_cache},
                                   {"pinned", bytes.pinned},
                                   {"gpu", bytes.gpu}}),
                     format_seconds(pass.stall.total()), join_stalls(pass.stall));
}

std::string describe_end(const RunReport& report) {
  const StreamerStats::Peak& peak = report.peak_bytes;
  std::string text = describe_page_cache(report);
  text += fmt::format(
      "peak    {}\n",
      join_nonzero({{"gpu", peak.gpu}, {"pinned", peak.pinned}, {"page_cache", peak.page_cache}}));
  if (report.verified_tensors > 0) {
    text += fmt::format("verified {} tensors: every byte is right\n", report.verified_tensors);
  }
  return text;
}

nlohmann::json to_json(const RunReport& report) {
  nlohmann::json path = path_to_json(report.path, report.ring_refusal);
  path["ring_registered"] = report.ring_refusal.empty();
  nlohmann::json passes = nlohmann::json::array();
  for (const PassStats& pass : report.passes) {
    passes.push_back({{"seconds", pass.seconds},
                      {"layers", pass.layers},
                      {"bytes",
                       {{"disk", pass.bytes.disk},
                        {"page_cache", pass.bytes.page_cache},
                        {"pinned", pass.bytes.pinned},
                        {"gpu", pass.bytes.gpu}}},
                      {"unused_bytes", pass.unused_bytes},
                      {"stall_seconds",
                       {{"disk", pass.stall.disk},
                        {"ring", pass.stall.ring},
                        {"copy", pass.stall.copy},
                        {"slot", pass.stall.slot}}}});
  }
  return {{"checkpoint", report.checkpoint},
          {"layers", report.layers},
          {"device", report.device},
          {"budget", to_json(report.budget)},
          {"path", std::move(path)},
          {"first_layer_seconds", report.first_layer_seconds},
          {"passes", std::move(passes)},
          {"page_cache", page_cache_to_json(report)},
          {"peak_bytes",
           {{"pinned", report.peak_bytes.pinned},
            {"page_cache", report.peak_bytes.page_cache},
            {"gpu", report.peak_bytes.gpu}}},
          {"verified_tensors", report.verified_tensors}};
}

}  // namespace tierstream
