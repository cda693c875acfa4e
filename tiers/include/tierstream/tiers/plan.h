#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/chunk_set.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/pinned_ring.h>
#include <tierstream/tiers/residency.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tierstream {

/// Measured rates of the links, bytes per second; 0 is unknown.
struct LinkRates {
  double disk = 0;            ///< storage to host memory
  double host_to_device = 0;  ///< copies from the ring, from the page-cache tier, and from memory
};

struct PlanOptions {
  bool reads_land = false;                    ///< DeviceTraits::reads_land
  bool is_host = false;                       ///< DeviceTraits::is_host: mapped tensors are used in place
  std::uint64_t allocation_bytes = 4096;      ///< DeviceTraits::allocation_bytes
  std::uint32_t max_slots = 3;                ///< more device memory than that goes to residents
  std::uint64_t request_bytes = 1u << 20;     ///< one read
  std::uint64_t max_block_bytes = 8u << 20;   ///< at 8 MiB a copy runs at 0.95 of the link
  std::uint64_t max_ring_bytes = 256u << 20;  ///< more does not make a pass faster
  std::uint64_t chunk_bytes = 0;              ///< of host residency, a power of two; 0: see chunk_set.h
  /// Seconds that each layer computes; empty: unknown, taken for 0.
  std::span<const double> layer_seconds = {};
  /// Homes that leases of an earlier plan hold: tensors that are resident or mapped there are so in this
  /// plan, too, whatever the budget. Null: none.
  const TensorHomes* held = nullptr;
};

/// What one layer asks of each link, whenever it is loaded. Bytes.
struct LayerLoad {
  std::uint64_t disk = 0;    ///< read from storage, alignment included
  std::uint64_t copied = 0;  ///< copied to the device, from wherever in host memory
  std::uint64_t ring = 0;    ///< of these, out of the ring's blocks, after they were read
};

/// Which bytes live where, computed before anything is allocated. Pure data.
struct Plan {
  RingShape ring;
  LayoutRules rules;  ///< by which the layouts are made
  std::uint64_t slot_bytes = 0;
  std::uint32_t slots = 0;
  TensorHomes homes;
  ChunkSet kept;                       ///< what the page-cache tier keeps
  std::vector<LayerLayout> layers;     ///< by layer: what is streamed, in a slot
  std::vector<LayerLayout> residents;  ///< by layer: what stays on the device, each tensor apart
  std::uint64_t resident_bytes = 0;    ///< of the residents' memory
  LayerLayout outside;                 ///< tensors that stay on the device, in one piece of memory

  Budget minimum;                        ///< the least that works
  std::uint64_t largest_slot_bytes = 0;  ///< what a slot takes while nothing is resident on the device
  Budget used;                           ///< what this plan reserves

  /// False: the layer has nothing to stream and takes no slot.
  bool needs_slot(std::size_t layer) const { return layers[layer].slot_bytes != 0; }
  std::size_t streamed_layers() const;
  /// All layers fit beside each other in the slots: nothing moves after the first pass.
  bool all_stay() const { return streamed_layers() <= slots; }

  /// What each layer loads in a steady pass; nothing where all stay.
  std::vector<LayerLoad> loads;
  std::uint64_t disk_bytes = 0;       ///< a steady pass reads from storage, alignment included
  std::uint64_t copied_bytes = 0;     ///< a steady pass copies to the device
  std::vector<std::uint64_t> mapped;  ///< by layer: bytes of tensors used where the page-cache tier maps them
  std::uint64_t streamed_bytes = 0;   ///< of tensors whose home is a slot

  double compute_seconds = 0;    ///< of a pass, as given
  double bound_seconds = 0;      ///< lower limit of a pass by the slowest link; 0: rates unknown
  double predicted_seconds = 0;  ///< of a steady pass, layer by layer; 0: rates unknown
  std::string binding;           ///< "disk", "host to device" or "compute"; empty: nothing known
};

/// Throws Error kBudgetTooSmall, naming for each tier that is too small what it needs at least and what it
/// has.
Plan make_plan(const LayerTable& table, const Budget& budget, const LinkRates& rates = {},
               const PlanOptions& options = {});

/// Seconds of a steady pass: layer by layer, each link works through its bytes in order, a layer's load
/// begins when a slot is free, and bytes that take the ring are copied block by block, each after it was
/// read. `layer_seconds` (empty: 0) is by layer.
double predict_seconds(const Plan& plan, const LinkRates& rates, std::span<const double> layer_seconds);

/// A few lines for people.
std::string describe(const Plan& plan);

}  // namespace tierstream
