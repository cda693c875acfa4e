#pragma once

#include <tierstream/tiers/device.h>

#include <memory>
#include <string>

namespace tierstream {

/// The device that a user names: "cpu", "cuda", "cuda:N"; empty: the first CUDA device if there is one, else
/// the CPU. `reads_land` is for the CPU device only (see CpuDeviceOptions).
/// Throws Error kInvalidArgument for an unknown name, kDeviceFailed for a device that is not there.
std::shared_ptr<Device> make_device(const std::string& name, bool reads_land = true);

}  // namespace tierstream
