#include <tierstream/tiers/device.h>

#include <utility>

namespace tierstream {

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)), data_(other.data_), bytes_(other.bytes_) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  DeviceMemory taken(std::move(other));
  std::swap(device_, taken.device_);
  std::swap(data_, taken.data_);
  std::swap(bytes_, taken.bytes_);
  return *this;
}

DeviceMemory::~DeviceMemory() {
  if (device_ != nullptr) device_->free_memory(data_, bytes_);
}

HostRegistration::HostRegistration(HostRegistration&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)), memory_(other.memory_) {}

HostRegistration& HostRegistration::operator=(HostRegistration&& other) noexcept {
  HostRegistration taken(std::move(other));
  std::swap(device_, taken.device_);
  std::swap(memory_, taken.memory_);
  return *this;
}

HostRegistration::~HostRegistration() {
  if (device_ != nullptr) device_->unregister_host(memory_);
}

}  // namespace tierstream
