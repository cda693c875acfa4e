#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/plan.h>

#include <algorithm>
#include <bit>

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

bool any_fills(const Plan& plan) {
  return !plan.outside.fills.empty() ||
         std::ranges::any_of(plan.layers, [](const LayerLayout& layer) { return !layer.fills.empty(); });
}

/// Throws when a tier cannot hold what it needs at least; one message for all tiers.
void refuse_shortage(const Plan& plan, const Budget& budget, const std::string& largest_layer) {
  std::string shortage;
  if (budget.gpu < plan.minimum.gpu) {
    shortage +=
        fmt::format("gpu needs at least {} bytes ({} outside the layers and one slot of {} for {}), has {}",
                    plan.minimum.gpu, plan.outside.slot_bytes, plan.slot_bytes, largest_layer, budget.gpu);
  }
  if (budget.pinned < plan.minimum.pinned) {
    shortage += fmt::format("{}pinned needs at least {} bytes ({} blocks of one read), has {}",
                            shortage.empty() ? "" : "; ", plan.minimum.pinned, kMinimumBlocks, budget.pinned);
  }
  if (!shortage.empty()) throw Error(Errc::kBudgetTooSmall, "budget too small: " + shortage);
}

}  // namespace

Plan make_plan(const LayerTable& table, const Budget& budget, const LinkRates& rates,
               const PlanOptions& options) {
  if (budget.page_cache != 0) {
    throw Error(Errc::kInvalidBudget,
                fmt::format("page_cache={}: the page-cache tier is not built yet; leave it out or give 0",
                            budget.page_cache));
  }
  const std::uint64_t request = options.request_bytes;
  if (!std::has_single_bit(request) || request < kMinimumRequestBytes || request > options.max_block_bytes) {
    throw Error(Errc::kInvalidArgument, fmt::format("request_bytes={}: must be a power of two from {} to {}",
                                                    request, kMinimumRequestBytes, options.max_block_bytes));
  }
  if (table.layers.empty()) throw Error(Errc::kInvalidArgument, "there are no layers to stream");

  Plan plan;
  plan.ring = choose_ring(std::max(budget.pinned, kMinimumBlocks * options.request_bytes), options);
  const LayoutRules rules{.block_bytes = plan.ring.block_bytes,
                          .request_bytes = options.request_bytes,
                          .reads_land = options.reads_land};
  plan.outside = make_layer_layout(table.outside, table.files, rules);
  plan.layers.reserve(table.layers.size());
  std::size_t largest = 0;
  for (const Layer& layer : table.layers) {
    const LayerLayout& layout = plan.layers.emplace_back(make_layer_layout(layer, table.files, rules));
    if (layout.slot_bytes > plan.slot_bytes) {
      plan.slot_bytes = layout.slot_bytes;
      largest = plan.layers.size() - 1;
    }
    plan.disk_bytes += layout.disk_bytes();
    plan.copied_bytes += layout.ring_bytes() + layout.memory_bytes();
  }
  plan.slot_bytes = std::max(plan.slot_bytes, kSlotAlignment);  // layers without a byte are legal
  if (!any_fills(plan)) plan.ring = {plan.ring.block_bytes, 0};

  plan.minimum.gpu = plan.outside.slot_bytes + plan.slot_bytes;
  plan.minimum.pinned = plan.ring.blocks == 0 ? 0 : kMinimumBlocks * options.request_bytes;
  refuse_shortage(plan, budget, table.layers[largest].name);

  plan.slots = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(table.layers.size(), (budget.gpu - plan.outside.slot_bytes) / plan.slot_bytes));
  plan.used.gpu = plan.outside.slot_bytes + plan.slots * plan.slot_bytes;
  plan.used.pinned = plan.ring.bytes();
  if (plan.slots == table.layers.size()) plan.disk_bytes = plan.copied_bytes = 0;  // all stay after pass one

  const auto seconds = [](std::uint64_t bytes, double rate) {
    return rate > 0 ? static_cast<double>(bytes) / rate : 0.0;
  };
  const double disk = seconds(plan.disk_bytes, rates.disk);
  const double copy = seconds(plan.copied_bytes, rates.host_to_device);
  plan.bound_seconds = std::max(disk, copy);
  if (plan.bound_seconds > 0) plan.binding_link = disk >= copy ? "disk" : "host to device";
  return plan;
}

std::string describe(const Plan& plan) {
  std::string text = fmt::format(
      "gpu     {} in {} of {} slots of {}, {} outside the layers\n"
      "pinned  {} in {} blocks of {}\n"
      "a pass  reads {} from storage, copies {} to the device\n",
      format_bytes(plan.used.gpu), plan.slots, plan.layers.size(), format_bytes(plan.slot_bytes),
      format_bytes(plan.outside.slot_bytes), format_bytes(plan.used.pinned), plan.ring.blocks,
      format_bytes(plan.ring.block_bytes), format_bytes(plan.disk_bytes), format_bytes(plan.copied_bytes));
  if (plan.bound_seconds > 0) {
    text += fmt::format("bound   {:.3f} s by {}\n", plan.bound_seconds, plan.binding_link);
  }
  return text;
}

}  // namespace tierstream
