#pragma once

#include <tierstream/tiers/device.h>

#include <memory>

namespace tierstream {

struct CpuDeviceOptions {
  /// Storage reads straight into slots where alignment allows; false: all bytes take the ring and one copy.
  bool reads_land = true;
};

/// The host itself as a device: slots are ordinary memory, and each copy queue is a thread that copies.
std::shared_ptr<Device> make_cpu_device(const CpuDeviceOptions& options = {});

}  // namespace tierstream
