#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/pinned_ring.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tierstream {

/// Measured rates of the links, bytes per second; 0 is unknown.
struct LinkRates {
  double disk = 0;
  double host_to_device = 0;
};

struct PlanOptions {
  bool reads_land = false;                    ///< DeviceTraits::reads_land
  std::uint64_t request_bytes = 1u << 20;     ///< one read
  std::uint64_t max_block_bytes = 8u << 20;   ///< at 8 MiB a copy runs at 0.95 of the link
  std::uint64_t max_ring_bytes = 256u << 20;  ///< more does not make a pass faster
};

/// Which bytes live where, computed before anything is allocated. Pure data.
struct Plan {
  RingShape ring;
  std::uint64_t slot_bytes = 0;
  std::uint32_t slots = 0;
  std::vector<LayerLayout> layers;
  LayerLayout outside;  ///< tensors that stay on the device, in one piece of memory

  Budget minimum;  ///< the least that works
  Budget used;     ///< what this plan reserves

  std::uint64_t disk_bytes = 0;    ///< a pass reads from storage, alignment included
  std::uint64_t copied_bytes = 0;  ///< a pass copies to the device
  double bound_seconds = 0;        ///< lower limit of a pass by the slowest link; 0: rates unknown
  std::string binding_link;        ///< "disk" or "host to device"
};

/// Throws Error kBudgetTooSmall, naming for each tier that is too small what it needs at least and what it
/// has; kInvalidBudget for a page_cache budget, a tier that is not built yet.
Plan make_plan(const LayerTable& table, const Budget& budget, const LinkRates& rates = {},
               const PlanOptions& options = {});

/// A few lines for people.
std::string describe(const Plan& plan);

}  // namespace tierstream
