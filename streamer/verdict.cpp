#include <fmt/format.h>
#include <tierstream/streamer/verdict.h>
#include <tierstream/tiers/budget.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace tierstream {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
/// A link that is at work for this share of a pass binds it: what is left is the wait for its first bytes.
constexpr double kBusyThroughout = 0.85;
/// A link that is busy throughout and gives less than this of its rate is slower than it was measured.
constexpr double kFullShare = 0.85;
/// No noise makes a link exceed its rate by this.
constexpr double kTooFast = 1.15;
/// Up to this share of the bytes read may come out of the page cache, and the disk's rate is still what
/// counts.
constexpr double kHardlyCached = 0.1;
/// A caller that waits for less than this share of a pass gains next to nothing from faster links.
constexpr double kHardlyWaits = 0.1;
/// A smaller share, of a pass or of what it moves, is not worth a word.
constexpr double kWorthAWord = 0.01;

/// One link in one pass.
struct Link {
  LinkVerdict verdict;
  double rate;           ///< 0: unknown
  double least_seconds;  ///< for what the pass had to move; 0: nothing, or rate unknown
  bool is_known;         ///< the rate, or that it does not matter
};

/// The pass as `judge` sees it.
struct Facts {
  const PassStats& pass;
  const Plan& plan;
  bool is_host;
  bool brings_what_stays;  ///< more than a steady pass moves
  Link disk;
  Link copies;
  double compute_seconds;  ///< 0: unknown

  bool moved_nothing() const {
    return pass.links.disk.bytes + pass.links.cached_bytes + pass.links.host_to_device.bytes == 0;
  }
  /// Of the bytes read.
  double cached_share() const {
    const std::uint64_t read_bytes = pass.links.disk.bytes + pass.links.cached_bytes;
    return read_bytes == 0 ? 0
                           : static_cast<double>(pass.links.cached_bytes) / static_cast<double>(read_bytes);
  }
  bool reads_page_cache() const { return cached_share() > kHardlyCached; }
  double share(double seconds) const { return pass.seconds > 0 ? seconds / pass.seconds : 0; }
  /// Of a pass: the caller's waits for bytes. Where its thread runs ahead of the device, a wait for a slot is
  /// one for the device's work.
  double waited_share() const { return share(pass.stall.total() - (is_host ? 0 : pass.stall.slot)); }
};

Link make_link(const PassStats& pass, const LinkWork& work, double rate, std::uint64_t needed_bytes) {
  Link link{.verdict = {}, .rate = rate, .least_seconds = 0, .is_known = needed_bytes == 0 || rate > 0};
  if (rate > 0) link.least_seconds = static_cast<double>(needed_bytes) / rate;
  if (pass.seconds <= 0) return link;
  link.verdict.bytes_per_second = static_cast<double>(work.bytes) / pass.seconds;
  if (rate > 0) link.verdict.share = link.verdict.bytes_per_second / rate;
  link.verdict.busy = std::min(work.busy_seconds / pass.seconds, 1.0);
  return link;
}

std::uint64_t steady_memory_bytes(const Plan& plan) {
  if (plan.all_stay()) return 0;
  return std::accumulate(
      plan.layers.begin(), plan.layers.end(), std::uint64_t{0},
      [](std::uint64_t sum, const LayerLayout& layer) { return sum + layer.memory_bytes(); });
}

Facts find_facts(const PassStats& pass, const Plan& plan, const LinkRates& rates, bool is_host) {
  const auto exceeds = [](std::uint64_t bytes, std::uint64_t steady_bytes) {
    return static_cast<double>(bytes) > (1 + kWorthAWord) * static_cast<double>(steady_bytes);
  };
  const bool brings =
      exceeds(pass.bytes.disk, plan.disk_bytes) || exceeds(pass.bytes.pinned, steady_memory_bytes(plan));
  const auto needed = [&](const LinkWork& work, std::uint64_t steady_bytes) {
    return brings ? work.bytes : std::min(work.bytes, steady_bytes);
  };
  const LinksWork& links = pass.links;
  Facts facts{
      .pass = pass,
      .plan = plan,
      .is_host = is_host,
      .brings_what_stays = brings,
      .disk = make_link(pass, links.disk, rates.disk, needed(links.disk, plan.disk_bytes)),
      .copies = make_link(pass, links.host_to_device, rates.host_to_device,
                          needed(links.host_to_device, plan.copied_bytes)),
      .compute_seconds = plan.compute_seconds,
  };
  if (facts.reads_page_cache()) facts.disk.is_known = false;  // how fast the page cache is nobody measured
  if (is_host && plan.compute_seconds == 0) {
    facts.compute_seconds = std::max(pass.seconds - pass.stall.total(), 0.0);
  }
  return facts;
}

Binding binding_of_stall(const Facts& facts) {
  const StallSeconds& stall = facts.pass.stall;
  const std::array causes = {
      std::pair{stall.disk, Binding::kDisk}, std::pair{stall.copy, Binding::kHostToDevice},
      std::pair{stall.ring, Binding::kRing}, std::pair{facts.is_host ? stall.slot : 0, Binding::kSlots}};
  return std::ranges::max_element(causes, {}, &std::pair<double, Binding>::first)->second;
}

Binding binding_of(const Facts& facts) {
  if (facts.moved_nothing()) return Binding::kNothing;
  if (facts.share(facts.compute_seconds) >= 1 - kHardlyWaits) return Binding::kCompute;
  const LinkVerdict& disk = facts.disk.verdict;
  const LinkVerdict& copies = facts.copies.verdict;
  if (std::max(disk.busy, copies.busy) >= kBusyThroughout) {
    const bool both = std::min(disk.busy, copies.busy) >= kBusyThroughout;
    const bool by_rates =
        facts.disk.is_known && facts.copies.is_known && std::max(disk.share, copies.share) <= kTooFast;
    const bool copies_bind =
        both && by_rates ? facts.copies.least_seconds > facts.disk.least_seconds : copies.busy > disk.busy;
    return copies_bind ? Binding::kHostToDevice : Binding::kDisk;
  }
  if (facts.waited_share() < kHardlyWaits) return Binding::kCompute;
  return facts.plan.slots == 1 ? Binding::kSlots : binding_of_stall(facts);
}

// --- Words ---

std::string rate_text(double bytes_per_second) {
  const double gb = bytes_per_second / 1e9;
  return fmt::format("{:.{}f} GB/s", gb, gb < 10 ? 2 : 1);
}

/// Two digits are more than the figures are worth.
std::string seconds_text(double seconds) {
  const auto text = [](double value, const char* unit) {
    return value < 10 ? fmt::format("{:.2g} {}", value, unit) : fmt::format("{:.0f} {}", value, unit);
  };
  if (seconds < 1e-3) return text(seconds * 1e6, "us");
  return seconds < 0.1 ? text(seconds * 1e3, "ms") : text(seconds, "s");
}

std::string percent_text(double share) { return fmt::format("{:.0f} %", share * 100); }

std::string waited_text(const Facts& facts, double stall_seconds, const char* what) {
  return fmt::format("waited {} of {} for {}", seconds_text(stall_seconds), seconds_text(facts.pass.seconds),
                     what);
}

/// How much shorter a pass like this one would be with one more GiB of the tier that takes bytes off `link`;
/// empty: hardly. `other_seconds`: the least that all else takes.
std::string saving_text(const Facts& facts, const Link& link, std::uint64_t steady_bytes,
                        double other_seconds, std::optional<double> gib_saves, const char* tier) {
  if (facts.brings_what_stays || link.rate <= 0 || link.verdict.share > kTooFast) return {};
  const std::uint64_t bytes = std::min(kGiB, steady_bytes);
  const double rate = link.verdict.busy < kBusyThroughout ? link.rate : link.verdict.bytes_per_second;
  const double saved =
      gib_saves.value_or(std::min(static_cast<double>(bytes) / rate, facts.pass.seconds - other_seconds));
  if (saved < kWorthAWord * facts.pass.seconds) return {};
  return fmt::format("; {} more {} would save {} a pass", bytes == kGiB ? "1 GiB" : format_bytes(bytes), tier,
                     seconds_text(saved));
}

std::string link_text(const Facts& facts, const Link& link, const char* adjective, const char* owner,
                      double stall_seconds, const char* waited_for) {
  const LinkVerdict& verdict = link.verdict;
  if (link.rate <= 0) return fmt::format("{}: {}", adjective, waited_text(facts, stall_seconds, waited_for));
  if (verdict.share > kTooFast) {
    return fmt::format("{}: {}, faster than {} {}", adjective, rate_text(verdict.bytes_per_second), owner,
                       rate_text(link.rate));
  }
  std::string text =
      fmt::format("{}: {} of {} {}", adjective, percent_text(verdict.share), owner, rate_text(link.rate));
  if (verdict.busy < kBusyThroughout) {
    text += fmt::format(", idle {} of the pass", percent_text(1 - verdict.busy));
  } else if (verdict.share < kFullShare) {
    text += fmt::format(", though busy {} of the pass", percent_text(verdict.busy));
  }
  return text;
}

std::string words_of(const Facts& facts, Binding binding, const JudgeOptions& options) {
  const StallSeconds& stall = facts.pass.stall;
  switch (binding) {
    case Binding::kDisk:
      if (facts.reads_page_cache()) {
        const auto read_bytes =
            static_cast<double>(facts.pass.links.disk.bytes + facts.pass.links.cached_bytes);
        return fmt::format("read-bound: {}, {} of it out of the page cache",
                           rate_text(facts.share(read_bytes)), percent_text(facts.cached_share()));
      }
      return link_text(facts, facts.disk, "disk-bound", "the disk's", stall.disk, "the disk") +
             saving_text(facts, facts.disk, facts.plan.disk_bytes,
                         std::max(facts.copies.least_seconds, facts.compute_seconds),
                         options.page_cache_gib_saves, "page cache");
    case Binding::kHostToDevice:
      return link_text(facts, facts.copies, "copy-bound", "the link's", stall.copy, "copies") +
             saving_text(facts, facts.copies, facts.plan.copied_bytes,
                         std::max(facts.disk.least_seconds, facts.compute_seconds), options.gpu_gib_saves,
                         "gpu");
    case Binding::kCompute:
      if (!facts.is_host) {
        return fmt::format("compute-bound: disk busy {}, copies busy {} of the pass",
                           percent_text(facts.disk.verdict.busy), percent_text(facts.copies.verdict.busy));
      }
      return fmt::format("compute-bound: waited for layers {} of the pass",
                         percent_text(facts.waited_share()));
    case Binding::kRing:
      return fmt::format("ring-bound: {}; a larger ring (pinned) lets reads and copies overlap",
                         waited_text(facts, stall.ring, "free blocks"));
    case Binding::kSlots:
      if (facts.plan.slots > 1) return "slot-bound: " + waited_text(facts, stall.slot, "slots in use");
      return fmt::format(
          "slot-bound: the only slot is filled or used, never both; a second takes {} more gpu",
          format_bytes(facts.plan.slot_bytes));
    case Binding::kNothing:
      break;
  }
  return "nothing was moved: every byte lay where it is used";
}

}  // namespace

const char* name_of(Binding binding) {
  switch (binding) {
    case Binding::kDisk:
      return "disk";
    case Binding::kHostToDevice:
      return "host to device";
    case Binding::kCompute:
      return "compute";
    case Binding::kRing:
      return "ring";
    case Binding::kSlots:
      return "slots";
    case Binding::kNothing:
      break;
  }
  return "nothing";
}

Verdict judge(const PassStats& pass, const Plan& plan, const LinkRates& rates, const JudgeOptions& options) {
  const Facts facts = find_facts(pass, plan, rates, options.is_host);
  Verdict verdict;
  verdict.disk = facts.disk.verdict;
  verdict.host_to_device = facts.copies.verdict;
  verdict.binding = binding_of(facts);
  if (facts.disk.is_known && facts.copies.is_known) {
    verdict.bound_seconds =
        std::max({facts.disk.least_seconds, facts.copies.least_seconds, facts.compute_seconds});
  }
  verdict.efficiency = facts.share(verdict.bound_seconds);
  verdict.words = words_of(facts, verdict.binding, options);
  const bool is_whole = pass.layers == plan.layers.size();
  if (facts.brings_what_stays && is_whole) verdict.words += "; it brought what stays: later passes move less";
  return verdict;
}

}  // namespace tierstream
