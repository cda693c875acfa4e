#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/plan.h>
#include <tierstream/tiers/plan_advice.h>

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tierstream {

/// Where the bytes of a layer's tensors are while it is leased, and where those in a slot come from. Bytes.
struct LayerHomes {
  std::string name;
  std::uint64_t resident = 0;   ///< in device memory, for good
  std::uint64_t mapped = 0;     ///< used in place, where the page-cache tier maps them
  std::uint64_t from_kept = 0;  ///< in a slot, copied out of the page-cache tier
  std::uint64_t from_disk = 0;  ///< in a slot, read from storage

  std::uint64_t total() const { return resident + mapped + from_kept + from_disk; }
};

/// A kind of home with its name for people.
struct HomeKind {
  const char* name;
  std::uint64_t LayerHomes::*bytes;
};
/// All kinds, those that cost a pass least first.
std::array<HomeKind, 4> home_kinds(const Plan& plan);

std::vector<LayerHomes> homes_of(const LayerTable& table, const Plan& plan);
/// Of all layers.
LayerHomes sum_of(const std::vector<LayerHomes>& layers);

/// What `tierstream plan` found out.
struct PlanReport {
  std::string checkpoint;
  std::string layers;  ///< prefix of their names
  std::string device;
  Budget budget;
  LinkRates rates;
  Plan plan;
  std::vector<LayerHomes> layer_homes;
  std::uint64_t outside_bytes = 0;
  BudgetAdvice one_more_gib;
  std::vector<BudgetPoint> over_gpu;
  std::vector<BudgetPoint> over_page_cache;
};

/// For people; lines of at most 80 columns, but for names.
std::string describe(const PlanReport& report);

// For programs: a key, once there, keeps its name and meaning. What is not known is null.
nlohmann::json to_json(const Budget& budget);
nlohmann::json to_json(const PlanReport& report);

}  // namespace tierstream
