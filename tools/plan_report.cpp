#include "tools/plan_report.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "tools/timing.h"

namespace tierstream {
namespace {

using nlohmann::json;

constexpr double kBarColumns = 48;

constexpr std::array kAdvice = {
    std::pair{"gpu", &BudgetAdvice::gpu},
    std::pair{"pinned", &BudgetAdvice::pinned},
    std::pair{"page_cache", &BudgetAdvice::page_cache},
};

bool knows_rates(const PlanReport& report) {
  return report.rates.disk > 0 || report.rates.host_to_device > 0;
}

bool knows_seconds(const PlanReport& report) {
  return knows_rates(report) || report.plan.compute_seconds > 0;
}

std::string joined(std::initializer_list<std::string> parts) {
  std::string text;
  for (const std::string& part : parts) {
    if (!part.empty()) text += (text.empty() ? "" : ", ") + part;
  }
  return text.empty() ? "nothing" : text;
}

/// "64.0 MiB outside"; nothing for no bytes.
std::string bytes_and(std::uint64_t bytes, std::string_view words) {
  return bytes == 0 ? "" : fmt::format("{} {}", format_bytes(bytes), words);
}

// --- The parts of what people read ---

/// Rounded up, so that it suffices when it is typed as a budget.
std::string format_least(std::uint64_t bytes) {
  return bytes < (1u << 20) ? fmt::format("{} B", bytes) : fmt::format("{} MiB", whole_mib(bytes));
}

std::string describe_tiers(const PlanReport& report) {
  const Plan& plan = report.plan;
  const auto row = [&](std::string_view name, std::uint64_t Budget::*tier, const std::string& holds) {
    return fmt::format("{:<14}{:>9}{:>10}{:>10}  {}\n", name, format_bytes(report.budget.*tier),
                       format_bytes(plan.used.*tier), format_least(plan.minimum.*tier), holds);
  };
  const std::string slots =
      plan.slots == 0 ? ""
                      : fmt::format("{} of {}", counted(plan.slots, "slot"), format_bytes(plan.slot_bytes));
  const std::string staying =
      joined({bytes_and(plan.resident_bytes, "resident"), bytes_and(plan.outside.slot_bytes, "outside")});
  const std::string ring = plan.ring.blocks == 0
                               ? ""
                               : fmt::format("a ring of {} of {}", counted(plan.ring.blocks, "block"),
                                             format_bytes(plan.ring.block_bytes));
  const std::uint64_t mapped = sum_of(report.layer_homes).mapped;
  std::string text =
      fmt::format("{:<14}{:>9}{:>10}{:>10}  {}\n", "tier", "budget", "used", "at least", "holds");
  text += row("gpu", &Budget::gpu, slots.empty() ? staying : slots);
  if (!slots.empty() && plan.resident_bytes + plan.outside.slot_bytes != 0)
    text += fmt::format("{:45}{}\n", "", staying);
  text +=
      row("pinned", &Budget::pinned, joined({ring, bytes_and(plan.used.pinned - plan.ring.bytes(), "kept")}));
  text += row("page_cache", &Budget::page_cache,
              joined({plan.used.page_cache == 0 ? "" : "kept pages", bytes_and(mapped, "used in place")}));
  return text;
}

/// "96.0 MiB", or "64.0 MiB to 96.0 MiB" where layers differ.
std::string describe_range(std::uint64_t least, std::uint64_t most) {
  if (least == most) return format_bytes(least);
  return fmt::format("{} to {}", format_bytes(least), format_bytes(most));
}

std::string describe_layers(const PlanReport& report) {
  std::string text = fmt::format("{:<30}{:<24}all layers\n", "bytes", "a layer");
  for (const HomeKind& kind : home_kinds(report.plan)) {
    const std::uint64_t sum = sum_of(report.layer_homes).*kind.bytes;
    if (sum == 0) continue;
    const auto [least, most] = std::ranges::minmax_element(report.layer_homes, {}, kind.bytes);
    text += fmt::format("{:<30}{:<24}{}\n", kind.name,
                        describe_range((*least).*kind.bytes, (*most).*kind.bytes), format_bytes(sum));
  }
  return text;
}

std::string describe_links(const PlanReport& report) {
  const Plan& plan = report.plan;
  const auto row = [&](std::string_view name, const std::string& bytes, const std::string& rate,
                       const std::string& seconds) {
    return fmt::format("{:<30}{:<12}{:<12}{}{}\n", name, bytes, rate, seconds,
                       plan.binding == name ? ", binds" : "");
  };
  const auto link_row = [&](std::string_view name, std::uint64_t bytes, double rate) {
    if (rate <= 0) return row(name, format_bytes(bytes), "unknown", "-");
    return row(name, format_bytes(bytes), fmt::format("{:.2f}", rate / 1e9),
               format_seconds(static_cast<double>(bytes) / rate));
  };
  std::string text = row("a pass, from the second on", "bytes", "GB/s", "seconds");
  text += link_row("disk", plan.disk_bytes, report.rates.disk);
  text += link_row("host to device", plan.copied_bytes, report.rates.host_to_device);
  if (plan.compute_seconds > 0) text += row("compute", "", "", format_seconds(plan.compute_seconds));
  if (knows_seconds(report)) {
    text += row("predicted", "", "", format_seconds(plan.predicted_seconds));
    text += row("no less than", "", "", format_seconds(plan.bound_seconds));
  }
  const bool misses_disk = report.rates.disk <= 0 && plan.disk_bytes > 0;
  const bool misses_copies = report.rates.host_to_device <= 0 && plan.copied_bytes > 0;
  if (!knows_rates(report)) {
    text += "no link's rate is known: --rates or --probe give seconds\n";
  } else if (misses_disk || misses_copies) {
    text += "a link of unknown rate is taken to need no time\n";
  }
  return text;
}

std::string describe_advice(const PlanReport& report) {
  std::string text = fmt::format("{:<30}saves a pass\n", "one more GiB of");
  for (const auto& [name, tier] : kAdvice) {
    const PassSaving& saving = report.one_more_gib.*tier;
    text +=
        fmt::format("{:<30}{}\n", name,
                    joined({saving.seconds > 1e-6 ? format_seconds(saving.seconds) : "",
                            bytes_and(saving.disk_bytes, "read"), bytes_and(saving.copied_bytes, "copied")}));
  }
  return text;
}

/// Bars over a tier's budget, the budget as it is among them; one line where its size changes nothing.
std::string describe_curve(const PlanReport& report, std::string_view name, std::uint64_t Budget::*tier,
                           std::vector<BudgetPoint> points) {
  const bool in_seconds = knows_seconds(report);
  const auto value_of = [&](const BudgetPoint& point) {
    return in_seconds ? point.seconds : static_cast<double>(point.disk_bytes);
  };
  const BudgetPoint now = point_of(report.plan, report.budget, tier);
  const auto place = std::ranges::lower_bound(points, now.bytes, {}, &BudgetPoint::bytes);
  if (place == points.end() || place->bytes != now.bytes) points.insert(place, now);
  const char* const value_words = in_seconds ? "a pass takes, predicted" : "a pass reads from storage";
  const auto value_text = [&](const BudgetPoint& point) {
    return in_seconds ? format_seconds(point.seconds) : format_bytes(point.disk_bytes);
  };
  const auto [least, greatest] = std::ranges::minmax_element(points, {}, value_of);
  const double most = value_of(*greatest);
  if (value_text(*least) == value_text(*greatest)) {
    const std::string value = most > 0 ? value_text(*greatest) : in_seconds ? "no time" : "nothing";
    return fmt::format("{:<14}{}: {} at any size\n", name, value_words, value);
  }
  std::string text = fmt::format("{:<14}{}\n", name, value_words);
  for (const BudgetPoint& point : points) {
    const std::string bar(static_cast<std::size_t>(value_of(point) / most * kBarColumns + 0.5), '#');
    text += fmt::format("{} {:>9}  {:>10}{}{}\n", point.bytes == now.bytes ? ">" : " ",
                        format_bytes(point.bytes), value_text(point), bar.empty() ? "" : "  ", bar);
  }
  return text;
}

// --- The parts of what programs read ---

json known(double value) { return value > 0 ? json(value) : json(nullptr); }

json saving_to_json(const PassSaving& saving, bool knows_seconds) {
  return {{"seconds", knows_seconds ? json(saving.seconds) : json(nullptr)},
          {"disk_bytes", saving.disk_bytes},
          {"copied_bytes", saving.copied_bytes}};
}

json curve_to_json(const std::vector<BudgetPoint>& points, bool knows_seconds) {
  json curve = json::array();
  for (const BudgetPoint& point : points) {
    curve.push_back({{"bytes", point.bytes},
                     {"seconds", knows_seconds ? json(point.seconds) : json(nullptr)},
                     {"disk_bytes", point.disk_bytes},
                     {"copied_bytes", point.copied_bytes}});
  }
  return curve;
}

json homes_to_json(const LayerHomes& homes) {
  return {{"resident_bytes", homes.resident},
          {"mapped_bytes", homes.mapped},
          {"from_kept_bytes", homes.from_kept},
          {"from_disk_bytes", homes.from_disk}};
}

}  // namespace

std::array<HomeKind, 4> home_kinds(const Plan& plan) {
  const bool once = plan.all_stay();
  return {{{"resident on the device", &LayerHomes::resident},
           {"used in place in kept pages", &LayerHomes::mapped},
           {once ? "slot, once from kept pages" : "slot, from kept pages", &LayerHomes::from_kept},
           {once ? "slot, once from disk" : "slot, from disk", &LayerHomes::from_disk}}};
}

std::vector<LayerHomes> homes_of(const LayerTable& table, const Plan& plan) {
  std::vector<LayerHomes> layers;
  for (std::size_t i = 0; i < table.layers.size(); ++i) {
    LayerHomes homes{.name = table.layers[i].name};
    const std::vector<TensorSpec>& tensors = table.layers[i].tensors;
    std::uint64_t in_slot = 0;
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const TensorHome home = plan.homes[i][t];
      std::uint64_t& bytes = home == TensorHome::kResident ? homes.resident
                             : home == TensorHome::kMapped ? homes.mapped
                                                           : in_slot;
      bytes += tensors[t].bytes;
    }
    homes.from_kept = std::min(in_slot, plan.layers[i].mapped_bytes());  // with small gaps, perhaps
    homes.from_disk = in_slot - homes.from_kept;
    layers.push_back(std::move(homes));
  }
  return layers;
}

LayerHomes sum_of(const std::vector<LayerHomes>& layers) {
  LayerHomes sum;
  for (const LayerHomes& layer : layers) {
    sum.resident += layer.resident;
    sum.mapped += layer.mapped;
    sum.from_kept += layer.from_kept;
    sum.from_disk += layer.from_disk;
  }
  return sum;
}

std::string describe(const PlanReport& report) {
  std::string text = fmt::format("layers  {} of {} on {}\n", report.layer_homes.size(),
                                 printable(report.layers), report.device);
  text += fmt::format("        {} in them, {} outside\n\n", format_bytes(sum_of(report.layer_homes).total()),
                      format_bytes(report.outside_bytes));
  text += describe_tiers(report) + '\n';
  text += describe_layers(report) + '\n';
  text += describe_links(report) + '\n';
  text += describe_advice(report) + '\n';
  text += describe_curve(report, "gpu", &Budget::gpu, report.over_gpu) + '\n';
  return text + describe_curve(report, "page_cache", &Budget::page_cache, report.over_page_cache);
}

json to_json(const Budget& budget) {
  return {{"gpu", budget.gpu}, {"pinned", budget.pinned}, {"page_cache", budget.page_cache}};
}

json to_json(const PlanReport& report) {
  const Plan& plan = report.plan;
  const bool seconds = knows_seconds(report);
  json layers = json::array();
  for (std::size_t i = 0; i < report.layer_homes.size(); ++i) {
    json layer = homes_to_json(report.layer_homes[i]);
    layer["name"] = report.layer_homes[i].name;
    layer["disk_bytes"] = plan.loads[i].disk;
    layer["copied_bytes"] = plan.loads[i].copied;
    layers.push_back(std::move(layer));
  }
  json one_more_gib;
  for (const auto& [name, tier] : kAdvice) {
    one_more_gib[name] = saving_to_json(report.one_more_gib.*tier, seconds);
  }
  return {
      {"checkpoint", report.checkpoint},
      {"layers", report.layers},
      {"device", report.device},
      {"budget", to_json(report.budget)},
      {"used", to_json(plan.used)},
      {"minimum", to_json(plan.minimum)},
      {"slots", {{"count", plan.slots}, {"bytes", plan.slot_bytes}}},
      {"ring", {{"blocks", plan.ring.blocks}, {"block_bytes", plan.ring.block_bytes}}},
      {"outside_bytes", report.outside_bytes},
      {"homes", homes_to_json(sum_of(report.layer_homes))},
      {"rates", {{"disk", known(report.rates.disk)}, {"host_to_device", known(report.rates.host_to_device)}}},
      {"pass",
       {{"disk_bytes", plan.disk_bytes},
        {"copied_bytes", plan.copied_bytes},
        {"compute_seconds", known(plan.compute_seconds)},
        {"bound_seconds", seconds ? json(plan.bound_seconds) : json(nullptr)},
        {"predicted_seconds", seconds ? json(plan.predicted_seconds) : json(nullptr)},
        {"binding", plan.binding.empty() ? json(nullptr) : json(plan.binding)}}},
      {"one_more_gib", std::move(one_more_gib)},
      {"curves",
       {{"gpu", curve_to_json(report.over_gpu, seconds)},
        {"page_cache", curve_to_json(report.over_page_cache, seconds)}}},
      {"layer_homes", std::move(layers)}};
}

}  // namespace tierstream
