#pragma once

#include <tierstream/streamer/stats.h>
#include <tierstream/tiers/plan.h>

#include <cstdint>
#include <optional>
#include <string>

namespace tierstream {

/// What kept a pass from being shorter.
enum class Binding : std::uint8_t {
  kNothing,       ///< nothing was moved, and nothing waited for
  kDisk,          ///< reads from storage
  kHostToDevice,  ///< copies to the device
  kCompute,       ///< the caller's work on the layers
  kRing,          ///< no free block, while neither link was busy throughout
  kSlots,         ///< no free slot, likewise
};
/// "disk", "host to device", "compute", as in Plan::binding, "ring", "slots", "nothing".
const char* name_of(Binding binding);

struct LinkVerdict {
  double bytes_per_second = 0;  ///< moved, over the whole pass
  double share = 0;             ///< that, of the link's measured rate; 0: rate unknown
  double busy = 0;              ///< share of the pass with something under way
};

struct Verdict {
  double bound_seconds = 0;  ///< the least that the pass could take by `rates`; 0: unknown, or nothing to do
  double efficiency = 0;     ///< `bound_seconds` of the pass's seconds; 0: unknown
  LinkVerdict disk;
  LinkVerdict host_to_device;
  Binding binding = Binding::kNothing;
  /// One line of clauses of at most 71 columns, with "; " between them: what bound the pass, and what more
  /// memory would save.
  std::string words;
};

struct JudgeOptions {
  /// DeviceTraits::is_host: the caller computes while it does not wait. Elsewhere its thread runs ahead of
  /// the device, and what the device computes is known by Plan::compute_seconds only.
  bool is_host = false;
  // Seconds a pass that one GiB more would save where the link binds; empty: estimated from what the link
  // gave.
  std::optional<double> page_cache_gib_saves = {};  ///< at the disk
  std::optional<double> gpu_gib_saves = {};         ///< at the link to the device
};

/// Says what a pass of `plan` was bound by, from what it moved, waited for, and had to move. The bound counts
/// a steady pass's bytes, but none that came before the pass began; where the pass brought bytes that stay,
/// those that it moved. A link that moved bytes at an unknown rate leaves bound and efficiency unknown; so do
/// reads out of the page cache, but for a few.
/// An efficiency or a share above 1 tells that the link was faster than its rate says. Pure.
Verdict judge(const PassStats& pass, const Plan& plan, const LinkRates& rates,
              const JudgeOptions& options = {});

}  // namespace tierstream
