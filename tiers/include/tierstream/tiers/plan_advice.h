#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/plan.h>

#include <cstdint>
#include <vector>

namespace tierstream {

// What other budgets would do for a model. Every answer comes from a plan of its own, made and dropped.
// Pure. Arguments are those of make_plan. Throws Error where make_plan does for the budget as it is.

/// What a steady pass no longer takes; 0 where it takes no less.
struct PassSaving {
  double seconds = 0;  ///< predicted; 0 where rates are unknown
  std::uint64_t disk_bytes = 0;
  std::uint64_t copied_bytes = 0;
};

/// By the tier that gets more.
struct BudgetAdvice {
  PassSaving gpu;
  PassSaving pinned;
  PassSaving page_cache;
};

/// What `more_bytes` more of each tier alone would save beside `plan`, which is the plan for `budget`.
BudgetAdvice advise(const LayerTable& table, const Budget& budget, const LinkRates& rates,
                    const PlanOptions& options, const Plan& plan, std::uint64_t more_bytes = 1u << 30);

/// What a steady pass takes at one size of a tier.
struct BudgetPoint {
  std::uint64_t bytes = 0;  ///< of that tier's budget
  double seconds = 0;       ///< predicted; 0 where rates are unknown
  std::uint64_t disk_bytes = 0;
  std::uint64_t copied_bytes = 0;
};

/// The point at which `budget`, whose plan this is, stands on the curve over `tier`.
BudgetPoint point_of(const Plan& plan, const Budget& budget, std::uint64_t Budget::*tier);

/// `steps` + 1 points over the budget of one tier (`&Budget::gpu`, ...), evenly spaced from the least that
/// works to the most that the model can use, with the other tiers as they are; with no steps, the least
/// alone. Those that do not work because another tier would then be too small are left out.
std::vector<BudgetPoint> curve_over(std::uint64_t Budget::*tier, const LayerTable& table,
                                    const Budget& budget, const LinkRates& rates, const PlanOptions& options,
                                    std::uint32_t steps);

}  // namespace tierstream
