#pragma once

#include <tierstream/io/checkpoint.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/plan.h>

#include <span>
#include <stop_token>
#include <string>

#include "tools/link_probe.h"

namespace tierstream {

/// What a user says that the links give: "disk=1.7GB", "host_to_device=50GB", in bytes a second. Links left
/// out are unknown. Throws Error kInvalidArgument or, for what is no size, kInvalidBudget.
LinkRates parse_rates(std::span<const std::string> entries);

/// What a streamer's links give, measured within a few seconds, with a progress bar.
struct MeasuredRates {
  LinkRate disk;
  LinkRate host_to_device;

  LinkRates rates() const { return {disk.bytes_per_second, host_to_device.bytes_per_second}; }
};
/// Reads of the checkpoint's files, past the page cache, and copies to `device`; nothing is written. Errors:
/// those of probe_reads and probe_device.
MeasuredRates measure_rates(const Checkpoint& checkpoint, Device& device, const std::stop_token& stop);

}  // namespace tierstream
