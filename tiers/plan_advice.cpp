#include <tierstream/io/error.h>
#include <tierstream/tiers/plan_advice.h>

#include <algorithm>
#include <limits>

namespace tierstream {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kLeastMargin = 64u << 10;

template <typename Number>
Number less_by(Number before, Number after) {
  return before - std::min(before, after);
}

PassSaving saving(const Plan& before, const Plan& after) {
  return {.seconds = less_by(before.predicted_seconds, after.predicted_seconds),
          .disk_bytes = less_by(before.disk_bytes, after.disk_bytes),
          .copied_bytes = less_by(before.copied_bytes, after.copied_bytes)};
}

bool takes_more(const Plan& plan, const Plan& best) {
  return plan.disk_bytes > best.disk_bytes || plan.copied_bytes > best.copied_bytes;
}

}  // namespace

BudgetAdvice advise(const LayerTable& table, const Budget& budget, const LinkRates& rates,
                    const PlanOptions& options, const Plan& plan, std::uint64_t more_bytes) {
  const auto with_more = [&](std::uint64_t Budget::*tier) {
    Budget larger = budget;
    larger.*tier += std::min(more_bytes, kUnlimited - budget.*tier);
    return saving(plan, make_plan(table, larger, rates, options));
  };
  return {.gpu = with_more(&Budget::gpu),
          .pinned = with_more(&Budget::pinned),
          .page_cache = with_more(&Budget::page_cache)};
}

BudgetPoint point_of(const Plan& plan, const Budget& budget, std::uint64_t Budget::*tier) {
  return {.bytes = budget.*tier,
          .seconds = plan.predicted_seconds,
          .disk_bytes = plan.disk_bytes,
          .copied_bytes = plan.copied_bytes};
}

std::vector<BudgetPoint> curve_over(std::uint64_t Budget::*tier, const LayerTable& table,
                                    const Budget& budget, const LinkRates& rates, const PlanOptions& options,
                                    std::uint32_t steps) {
  Budget at = budget;
  const auto plan_with = [&](std::uint64_t bytes) {
    at.*tier = bytes;
    return make_plan(table, at, rates, options);
  };
  const Plan best = plan_with(kUnlimited);
  // The best plan is found a little above what it takes, since the search for it estimates from above.
  std::uint64_t margin = 0;
  while (takes_more(plan_with(best.used.*tier + margin), best)) margin = std::max(kLeastMargin, 2 * margin);
  const std::uint64_t first = best.minimum.*tier;
  const std::uint64_t range = less_by(best.used.*tier + margin, first);
  const std::uint32_t parts = std::max(steps, 1u);
  std::vector<BudgetPoint> points;
  for (std::uint64_t step = 0; step <= steps; ++step) {
    try {
      const Plan plan = plan_with(first + range / parts * step + range % parts * step / parts);
      points.push_back(point_of(plan, at, tier));
    } catch (const Error& error) {
      if (error.errc() != Errc::kBudgetTooSmall) throw;
    }
  }
  return points;
}

}  // namespace tierstream
