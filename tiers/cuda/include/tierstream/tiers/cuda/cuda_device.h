#pragma once

#include <memory>

#include <tierstream/tiers/device.h>

namespace tierstream {

/// The CUDA devices that this process can use; 0 where there is no driver.
int cuda_device_count() noexcept;

/// GPU number `ordinal`. Throws Error kDeviceFailed, saying how many there are or what the driver says.
std::shared_ptr<Device> make_cuda_device(int ordinal = 0);

}  // namespace tierstream
