#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/plan.h>

#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

#include "layout_builder.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kMinimumRequestBytes = 4096;  ///< the alignment of direct I/O
/// Blocks below this cost more requests than they save memory; two of them keep the ring moving.
constexpr std::uint32_t kMinimumBlocks = 2;
/// With at least this many, reads go on while copies run, and a block is copied soon after its bytes came.
constexpr std::uint32_t kComfortableBlocks = 16;

/// The largest blocks of which the budget holds a comfortable number, else as many of the smallest as it
/// holds.
RingShape choose_ring(std::uint64_t pinned_bytes, const PlanOptions& options) {
  const std::uint64_t bytes = std::min(pinned_bytes, options.max_ring_bytes);
  std::uint64_t block = options.max_block_bytes;
  while (block / 2 >= options.request_bytes && bytes / block < kComfortableBlocks) block /= 2;
  return {block, static_cast<std::uint32_t>(bytes / block)};
}

std::uint64_t chunk_bytes(const PlanOptions& options) {
  if (options.chunk_bytes != 0) return options.chunk_bytes;
  return options.is_host ? kChunkBytesInPlace : kChunkBytes;
}

/// Blocks that all layouts together fill in a pass at most: a ring of more would never be full.
std::uint64_t count_fills(const Plan& plan) {
  const auto add = [](std::uint64_t sum, const LayerLayout& layout) { return sum + layout.fills.size(); };
  const std::uint64_t sum =
      std::accumulate(plan.layers.begin(), plan.layers.end(), std::uint64_t{plan.outside.fills.size()}, add);
  return std::accumulate(plan.residents.begin(), plan.residents.end(), sum, add);
}

/// Throws when a tier cannot hold what it needs at least; one message for all tiers.
void refuse_shortage(const Plan& plan, const Budget& budget, const std::string& largest_layer) {
  std::string shortage;
  const auto add = [&](std::string_view tier, std::uint64_t needed, const std::string& what,
                       std::uint64_t has) {
    if (has >= needed) return;
    shortage += fmt::format("{}{} needs at least {} for {}, has {}", shortage.empty() ? "" : "; ", tier,
                            format_least_bytes(needed), what, has == 0 ? "none" : format_exactly(has));
  };
  const std::uint64_t held = plan.minimum.gpu - plan.outside.slot_bytes - plan.largest_slot_bytes;
  add("gpu", plan.minimum.gpu,
      fmt::format("{} outside the layers and a slot of {} ({}){}", format_bytes(plan.outside.slot_bytes),
                  format_bytes(plan.largest_slot_bytes), largest_layer,
                  held == 0 ? "" : fmt::format(", and {} that leases hold", format_bytes(held))),
      budget.gpu);
  add("pinned", plan.minimum.pinned,
      fmt::format(
          "{} blocks of one read{}", kMinimumBlocks,
          plan.minimum.pinned > kMinimumBlocks * plan.rules.request_bytes ? ", and what leases hold" : ""),
      budget.pinned);
  add("page_cache", plan.minimum.page_cache, "what leases hold", budget.page_cache);
  if (!shortage.empty()) throw Error(Errc::kBudgetTooSmall, "budget too small: " + shortage);
}

/// Whether either tier of host memory may have something to keep.
bool can_keep(const LayerTable& table, const Budget& budget) {
  const auto is_local = [](const SourceFile& file) { return file.info.is_local_file; };
  return (budget.page_cache != 0 && std::ranges::any_of(table.files, is_local)) ||
         (budget.pinned != 0 && !std::ranges::all_of(table.files, is_local));
}

void refuse_options(const LayerTable& table, const PlanOptions& options) {
  const std::uint64_t request = options.request_bytes;
  if (!std::has_single_bit(request) || request < kMinimumRequestBytes || request > options.max_block_bytes) {
    throw Error(Errc::kInvalidArgument, fmt::format("request_bytes={}: must be a power of two from {} to {}",
                                                    request, kMinimumRequestBytes, options.max_block_bytes));
  }
  if (!std::has_single_bit(chunk_bytes(options))) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("chunk_bytes={}: must be a power of two", options.chunk_bytes));
  }
  if (options.max_slots == 0) throw Error(Errc::kInvalidArgument, "max_slots=0: streaming takes a slot");
  if (table.layers.empty()) throw Error(Errc::kInvalidArgument, "there are no layers to stream");
  if (!options.layer_seconds.empty() && options.layer_seconds.size() != table.layers.size()) {
    throw Error(Errc::kInvalidArgument, fmt::format("layer_seconds has {} entries for {} layers",
                                                    options.layer_seconds.size(), table.layers.size()));
  }
}

/// Makes as long a beginning of the fixed order resident as `gpu_bytes` hold beside the slots of the rest.
/// `slot_bytes`: by layer, with no more resident yet than `resident_bytes`. What fits is counted as it is
/// laid out, so that a plan given what another one uses is the same plan.
void choose_residents(const LayerTable& table, const SortedTensors& tensors, LayoutBuilder& layouts,
                      std::uint64_t gpu_bytes, std::vector<std::uint64_t> slot_bytes,
                      std::uint64_t resident_bytes, std::uint32_t max_slots, TensorHomes& homes) {
  const auto set_home = [&](ResidentCandidate tied, TensorHome home) {
    for (const SortedTensor& tensor : tied) homes[tensor.layer][tensor.tensor] = home;
  };
  const auto measure_slot = [&](std::uint32_t layer) {
    slot_bytes[layer] =
        layouts.place(table.layers[layer], tensors.of(layer), {homes[layer], TensorHome::kSlot});
  };
  const auto slots_take = [&] {
    const auto streamed = slot_bytes.size() - static_cast<std::size_t>(std::ranges::count(slot_bytes, 0u));
    return std::ranges::max(slot_bytes) * std::min<std::uint64_t>(max_slots, streamed);
  };
  std::vector<ResidentCandidate> chosen;
  std::vector<bool> gives_up(slot_bytes.size());
  for (const ResidentCandidate tied : resident_order(tensors)) {
    const SortedTensor& tensor = tied.front();
    if (homes[tensor.layer][tensor.tensor] != TensorHome::kSlot) continue;
    const std::uint64_t bytes = layouts.resident_bytes(tensor);
    if (resident_bytes + bytes > gpu_bytes) break;
    resident_bytes += bytes;
    set_home(tied, TensorHome::kResident);
    chosen.push_back(tied);
    gives_up[tensor.layer] = true;
  }
  for (std::uint32_t layer = 0; layer < slot_bytes.size(); ++layer) {
    if (gives_up[layer]) measure_slot(layer);
  }
  // From the longest beginning down: slots shrink as their largest layer does, so a longer one may fit where
  // a shorter one does not.
  for (; !chosen.empty() && resident_bytes + slots_take() > gpu_bytes; chosen.pop_back()) {
    resident_bytes -= layouts.resident_bytes(chosen.back().front());
    set_home(chosen.back(), TensorHome::kSlot);
    measure_slot(chosen.back().front().layer);
  }
}

void lay_out(const LayerTable& table, const SortedTensors& tensors, LayoutBuilder& layouts, Plan& plan) {
  plan.layers.reserve(table.layers.size());
  plan.residents.reserve(table.layers.size());
  const ChunkSet* cached = plan.kept.empty() ? nullptr : &plan.kept;
  for (std::size_t i = 0; i < table.layers.size(); ++i) {
    const auto build = [&](const LayerPart& part) {
      return layouts.build(table.layers[i], tensors.of(i), part);
    };
    plan.layers.push_back(build({plan.homes[i], TensorHome::kSlot, cached}));
    plan.slot_bytes = std::max(plan.slot_bytes, plan.layers.back().slot_bytes);
    plan.residents.push_back(build({plan.homes[i], TensorHome::kResident}));
    plan.resident_bytes += plan.residents.back().slot_bytes;
  }
}

void add_up(const SortedTensors& tensors, Plan& plan) {
  const bool all_stay = plan.all_stay();
  plan.mapped.reserve(plan.layers.size());
  plan.loads.reserve(plan.layers.size());
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    std::uint64_t mapped = 0;
    for (const SortedTensor& tensor : tensors.of(i)) {
      if (plan.homes[i][tensor.tensor] == TensorHome::kMapped) mapped += tensor.bytes;
      if (plan.homes[i][tensor.tensor] == TensorHome::kSlot) plan.streamed_bytes += tensor.bytes;
    }
    plan.mapped.push_back(mapped);
    const LayerLayout& layout = plan.layers[i];
    const std::uint64_t ring = layout.ring_bytes();
    LayerLoad load{layout.disk_bytes(), ring + layout.memory_bytes() + layout.mapped_bytes(), ring};
    if (all_stay) load = {};
    plan.loads.push_back(load);
    plan.disk_bytes += load.disk;
    plan.copied_bytes += load.copied;
  }
}

double seconds_of(std::uint64_t bytes, double rate) {
  return rate > 0 ? static_cast<double>(bytes) / rate : 0.0;
}

void predict(const LinkRates& rates, std::span<const double> layer_seconds, Plan& plan) {
  plan.compute_seconds = std::accumulate(layer_seconds.begin(), layer_seconds.end(), 0.0);
  const std::array links = {
      std::pair{seconds_of(plan.disk_bytes, rates.disk), "disk"},
      std::pair{seconds_of(plan.copied_bytes, rates.host_to_device), "host to device"},
      std::pair{plan.compute_seconds, "compute"},
  };
  const auto slowest = std::ranges::max_element(links, {}, &std::pair<double, const char*>::first);
  plan.bound_seconds = slowest->first;
  if (slowest->first > 0) plan.binding = slowest->second;
  plan.predicted_seconds = predict_seconds(plan, rates, layer_seconds);
}

}  // namespace

std::size_t Plan::streamed_layers() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(layers, [](const LayerLayout& layer) { return layer.slot_bytes != 0; }));
}

Plan make_plan(const LayerTable& table, const Budget& budget, const LinkRates& rates,
               const PlanOptions& options) {
  refuse_options(table, options);
  Plan plan;
  const SortedTensors tensors(table);
  plan.homes = options.held != nullptr ? *options.held : all_streamed(table);
  std::optional<ChunkOrder> chunks;
  if (options.held != nullptr || can_keep(table, budget)) {
    chunks.emplace(table, tensors, options.is_host, chunk_bytes(options));
  }
  Budget held;
  if (options.held != nullptr) held = bytes_by_tier(table, chunks->choose(plan.homes, {}));
  plan.minimum.page_cache = held.page_cache;
  const std::uint64_t ring_room = budget.pinned - std::min(budget.pinned, held.pinned);
  plan.ring = choose_ring(std::max(ring_room, kMinimumBlocks * options.request_bytes), options);
  plan.rules = {.block_bytes = plan.ring.block_bytes,
                .request_bytes = options.request_bytes,
                .reads_land = options.reads_land,
                .allocation_bytes = options.allocation_bytes};
  plan.outside = make_layer_layout(table.outside, table.files, plan.rules);
  const Budget room{.gpu = 0,
                    .pinned = budget.pinned - std::min(budget.pinned, plan.ring.bytes()),
                    .page_cache = budget.page_cache};
  const auto keep_pages = [&] {
    if (!chunks) return;
    plan.kept = chunks->choose(plan.homes, room);
    if (options.is_host) use_where_mapped(tensors, plan.kept, plan.homes);
  };
  if (options.is_host) keep_pages();  // what is used where it is mapped needs neither slot nor residence

  LayoutBuilder layouts(table.files, plan.rules);
  std::vector<std::uint64_t> slot_bytes;
  slot_bytes.reserve(table.layers.size());
  std::uint64_t held_bytes = 0;
  for (std::size_t i = 0; i < table.layers.size(); ++i) {
    const auto bytes_at = [&](TensorHome home) {
      return layouts.place(table.layers[i], tensors.of(i), {plan.homes[i], home});
    };
    slot_bytes.push_back(bytes_at(TensorHome::kSlot));
    if (options.held != nullptr) held_bytes += bytes_at(TensorHome::kResident);
  }
  const auto largest = std::ranges::max_element(slot_bytes);
  plan.largest_slot_bytes = *largest;
  const std::string& largest_name = table.layers[static_cast<std::size_t>(largest - slot_bytes.begin())].name;
  plan.minimum.gpu = plan.outside.slot_bytes + held_bytes + plan.largest_slot_bytes;
  const std::uint64_t gpu_bytes = budget.gpu - std::min(budget.gpu, plan.outside.slot_bytes);
  choose_residents(table, tensors, layouts, gpu_bytes, std::move(slot_bytes), held_bytes, options.max_slots,
                   plan.homes);
  keep_pages();

  lay_out(table, tensors, layouts, plan);
  std::uint64_t fills = count_fills(plan);
  // Kept pages that turn out not to be registered take the ring, too.
  const bool has_room = budget.pinned >= kMinimumBlocks * options.request_bytes;
  if (!options.is_host && !plan.kept.empty() && has_room) fills += kComfortableBlocks;
  if (fills == 0) {
    plan.ring.blocks = 0;
  } else {
    plan.ring.blocks = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(plan.ring.blocks, std::max<std::uint64_t>(fills, kMinimumBlocks)));
  }
  plan.minimum.pinned = held.pinned + (plan.ring.blocks == 0 ? 0 : kMinimumBlocks * options.request_bytes);
  refuse_shortage(plan, budget, largest_name);

  if (plan.slot_bytes != 0) {
    plan.slots = static_cast<std::uint32_t>(
        std::min({std::uint64_t{options.max_slots}, std::uint64_t{plan.streamed_layers()},
                  (gpu_bytes - plan.resident_bytes) / plan.slot_bytes}));
  }
  const Budget kept = bytes_by_tier(table, plan.kept);
  plan.used = {.gpu = plan.outside.slot_bytes + plan.resident_bytes + plan.slots * plan.slot_bytes,
               .pinned = plan.ring.bytes() + kept.pinned,
               .page_cache = kept.page_cache};
  add_up(tensors, plan);
  predict(rates, options.layer_seconds, plan);
  return plan;
}

double predict_seconds(const Plan& plan, const LinkRates& rates, std::span<const double> layer_seconds) {
  // The passes before the last one bring the links to their steady state.
  constexpr int kPasses = 3;
  std::vector<double> slot_free(std::max(plan.slots, 1u));  // in the order of their use
  std::size_t next_slot = 0;
  double disk_free = 0;
  double copies_free = 0;
  double compute_end = 0;
  double pass_begin = 0;
  const auto load = [&](const LayerLoad& bytes, double begin) {
    // Copied as soon as there is a slot, before anything that was read for the layer.
    copies_free = std::max(copies_free, begin) + seconds_of(bytes.copied - bytes.ring, rates.host_to_device);
    if (bytes.disk == 0) return copies_free;
    const double reading = std::max(disk_free, begin);
    disk_free = reading + seconds_of(bytes.disk, rates.disk);
    if (bytes.ring == 0) return std::max(copies_free, disk_free);
    // When the copies get to these bytes, the disk is no farther ahead than the ring holds.
    disk_free = std::max(disk_free, copies_free + seconds_of(bytes.disk, rates.disk) -
                                        seconds_of(plan.ring.bytes(), rates.disk));
    // The first block is copied once it is read, and the last one after all is read. Counted as blocks of one
    // read: those of a larger ring are larger, and a larger budget is not to be predicted slower.
    const std::uint64_t block = std::min(bytes.ring, plan.rules.request_bytes);
    copies_free = std::max(std::max(copies_free, reading + seconds_of(block, rates.disk)) +
                               seconds_of(bytes.ring, rates.host_to_device),
                           disk_free + seconds_of(block, rates.host_to_device));
    return copies_free;
  };
  for (int pass = 0; pass < kPasses; ++pass) {
    pass_begin = compute_end;
    for (std::size_t i = 0; i < plan.loads.size(); ++i) {
      const bool takes_slot = plan.loads[i].disk != 0 || plan.loads[i].copied != 0;
      const double ready = takes_slot ? load(plan.loads[i], slot_free[next_slot]) : 0;
      compute_end = std::max(compute_end, ready) + (layer_seconds.empty() ? 0 : layer_seconds[i]);
      if (!takes_slot) continue;
      slot_free[next_slot] = compute_end;
      next_slot = (next_slot + 1) % slot_free.size();
    }
  }
  return compute_end - pass_begin;
}

std::string describe(const Plan& plan) {
  const std::string slots =
      plan.slots == 0 ? "no slots"
                      : fmt::format("{} of {}", counted(plan.slots, "slot"), format_bytes(plan.slot_bytes));
  std::string text =
      fmt::format("gpu     {}: {}, {} resident, {} outside\n", format_bytes(plan.used.gpu), slots,
                  format_bytes(plan.resident_bytes), format_bytes(plan.outside.slot_bytes));
  text += plan.ring.blocks == 0
              ? "pinned  no ring"
              : fmt::format("pinned  {} in {} of {}", format_bytes(plan.ring.bytes()),
                            counted(plan.ring.blocks, "block"), format_bytes(plan.ring.block_bytes));
  const std::uint64_t kept_pinned = plan.used.pinned - plan.ring.bytes();
  text += kept_pinned == 0 ? "\n" : fmt::format(", {} kept\n", format_bytes(kept_pinned));
  if (!plan.kept.empty()) {
    text +=
        fmt::format("cache   {} of the files' pages, {} used in place\n", format_bytes(plan.used.page_cache),
                    format_bytes(std::accumulate(plan.mapped.begin(), plan.mapped.end(), std::uint64_t{0})));
  }
  const bool first_loads_more = plan.all_stay() || plan.resident_bytes != 0 || !plan.kept.empty();
  text += fmt::format("a pass  reads {} from storage, copies {} to the device{}\n",
                      format_bytes(plan.disk_bytes), format_bytes(plan.copied_bytes),
                      first_loads_more ? ",\n        from the second one on" : "");
  if (plan.predicted_seconds > 0) {
    text += fmt::format("takes   {:.3f} s, bound by {} to {:.3f} s\n", plan.predicted_seconds, plan.binding,
                        plan.bound_seconds);
  }
  return text;
}

}  // namespace tierstream
