#include "tools/run_report.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <string_view>
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

std::string describe_link(const char* name, const LinkWork& work, const LinkVerdict& link, double rate) {
  if (work.bytes == 0) return {};
  const std::string share =
      rate > 0 ? fmt::format(" of {:.2f} GB/s ({:.0f} %)", rate / 1e9, link.share * 100) : " GB/s";
  return fmt::format("        {} {:.2f}{}, busy {:.0f} % of the pass\n", name, link.bytes_per_second / 1e9,
                     share, link.busy * 100);
}

/// Clauses in lines of at most 80 columns.
std::string wrap_words(const std::string& words) {
  constexpr std::size_t kColumns = 80;
  std::string text;
  std::string line = "verdict";
  for (std::string_view rest = words; !rest.empty();) {
    const std::string_view clause = rest.substr(0, std::min(rest.find("; "), rest.size() - 1) + 1);
    if (line.size() + 1 + clause.size() > kColumns) {
      text += line + '\n';
      line = "       ";
    }
    line += fmt::format(" {}", clause);
    rest.remove_prefix(std::min(clause.size() + 1, rest.size()));
  }
  return text + line + '\n';
}

std::string describe_verdict(const PassReport& pass, const LinkRates& rates) {
  const Verdict& verdict = pass.verdict;
  const LinksWork& links = pass.stats.links;
  std::string text = describe_link("disk", links.disk, verdict.disk, rates.disk);
  if (links.cached_bytes > 0 && pass.stats.seconds > 0) {
    text += fmt::format("        kernel's page cache: {} read, {:.2f} GB/s, in the disk's time\n",
                        format_bytes(links.cached_bytes),
                        static_cast<double>(links.cached_bytes) / pass.stats.seconds / 1e9);
  }
  text += describe_link("host to device", links.host_to_device, verdict.host_to_device, rates.host_to_device);
  const bool is_judged = rates.disk > 0 || rates.host_to_device > 0;  // and not by what it computed alone
  if (is_judged && verdict.efficiency > 0) {
    const char* const words =
        verdict.efficiency >= 1.005 ? "by the links' rates, which were exceeded" : "at the least";
    text += fmt::format("        efficiency {:.2f}: {} {}\n", verdict.efficiency,
                        format_seconds(verdict.bound_seconds), words);
  }
  return text + wrap_words(verdict.words);
}

nlohmann::json known_or_null(double value) { return value > 0 ? nlohmann::json(value) : nlohmann::json(); }

nlohmann::json link_to_json(const LinkWork& work, const LinkVerdict& link, double rate) {
  return {{"bytes", work.bytes},
          {"busy_seconds", work.busy_seconds},
          {"bytes_per_second", link.bytes_per_second},
          {"share", rate > 0 ? nlohmann::json(link.share) : nlohmann::json()}};
}

nlohmann::json verdict_to_json(const PassReport& pass, const LinkRates& rates) {
  const Verdict& verdict = pass.verdict;
  const LinksWork& links = pass.stats.links;
  return {
      {"binding", name_of(verdict.binding)},
      {"words", verdict.words},
      {"bound_seconds", known_or_null(verdict.bound_seconds)},
      {"efficiency", known_or_null(verdict.efficiency)},
      {"cached_bytes", links.cached_bytes},
      {"disk", link_to_json(links.disk, verdict.disk, rates.disk)},
      {"host_to_device", link_to_json(links.host_to_device, verdict.host_to_device, rates.host_to_device)}};
}

}  // namespace

void complete(RunReport& report, const Streamer& streamer) {
  report.path = streamer.storage_path();
  report.kept_bytes = streamer.plan().used.page_cache;
  report.page_cache = streamer.page_cache_status();
  report.peak_bytes = streamer.stats().peak_bytes;
}

std::string describe(const TierBytes& bytes) {
  return join_nonzero(
      {{"disk", bytes.disk}, {"page_cache", bytes.page_cache}, {"pinned", bytes.pinned}, {"gpu", bytes.gpu}});
}

nlohmann::json to_json(const TierBytes& bytes) {
  return {
      {"disk", bytes.disk}, {"page_cache", bytes.page_cache}, {"pinned", bytes.pinned}, {"gpu", bytes.gpu}};
}

nlohmann::json to_json(const StallSeconds& stall) {
  return {{"disk", stall.disk}, {"ring", stall.ring}, {"copy", stall.copy}, {"slot", stall.slot}};
}

std::string describe_pass(std::size_t number, const PassReport& report, const LinkRates& rates) {
  const PassStats& pass = report.stats;
  const TierBytes& bytes = pass.bytes;
  const auto brought = static_cast<double>(bytes.disk + bytes.page_cache + bytes.pinned);
  const LinksWork& links = pass.links;
  const bool moved = links.disk.bytes + links.cached_bytes + links.host_to_device.bytes > 0;
  const std::string rate =
      moved && pass.seconds > 0 ? fmt::format(", {:.2f} GB/s", brought / pass.seconds / 1e9) : "";
  std::string text =
      fmt::format("pass {:<2} {}{}: {}\n        stalled {}{}\n", number, format_seconds(pass.seconds), rate,
                  describe(bytes), format_seconds(pass.stall.total()), join_stalls(pass.stall));
  return text + describe_verdict(report, rates);
}

std::string describe_end(const RunReport& report) {
  const StreamerStats::Peak& peak = report.peak_bytes;
  std::string text = describe_page_cache(report);
  text += fmt::format(
      "peak    {}\n",
      join_nonzero({{"gpu", peak.gpu}, {"pinned", peak.pinned}, {"page_cache", peak.page_cache}}));
  if (report.verified_tensors > 0) {
    text += fmt::format("verified {}: every byte is right\n", counted(report.verified_tensors, "tensor"));
  }
  return text;
}

nlohmann::json to_json(const RunReport& report) {
  nlohmann::json path = path_to_json(report.path, report.ring_refusal);
  path["ring_registered"] = report.ring_refusal.empty();
  nlohmann::json passes = nlohmann::json::array();
  for (const PassReport& pass_report : report.passes) {
    const PassStats& pass = pass_report.stats;
    passes.push_back({{"seconds", pass.seconds},
                      {"layers", pass.layers},
                      {"bytes", to_json(pass.bytes)},
                      {"unused_bytes", pass.unused_bytes},
                      {"stall_seconds", to_json(pass.stall)},
                      {"verdict", verdict_to_json(pass_report, report.rates)}});
  }
  return {{"checkpoint", report.checkpoint},
          {"layers", report.layers},
          {"device", report.device},
          {"budget", to_json(report.budget)},
          {"path", std::move(path)},
          {"first_layer_seconds", report.first_layer_seconds},
          {"rates",
           {{"disk", known_or_null(report.rates.disk)},
            {"host_to_device", known_or_null(report.rates.host_to_device)}}},
          {"passes", std::move(passes)},
          {"page_cache", page_cache_to_json(report)},
          {"peak_bytes",
           {{"pinned", report.peak_bytes.pinned},
            {"page_cache", report.peak_bytes.page_cache},
            {"gpu", report.peak_bytes.gpu}}},
          {"verified_tensors", report.verified_tensors}};
}

}  // namespace tierstream
