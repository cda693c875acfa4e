#pragma once

#include <cuda_runtime_api.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/host_memory.h>

#include <cstddef>
#include <cstdint>

#include "bench/comparison.h"

namespace tierstream {

/// Throws Error kDeviceFailed, naming `call`.
void check_cuda(cudaError_t status, const char* call);

/// A non-blocking stream of its own, and a wait for it.
class OwnStream {
 public:
  OwnStream();
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream();
  cudaStream_t get() const { return stream_; }
  void copy(std::byte* to, const std::byte* from, std::uint64_t bytes) const;
  void wait() const;

 private:
  cudaStream_t stream_ = nullptr;
};

/// Host memory, registered. Throws Error kDeviceFailed where that is refused.
class PinnedMemory {
 public:
  PinnedMemory(Device& device, std::uint64_t bytes);
  std::byte* data() const { return memory_.span().data(); }

 private:
  HostMemory memory_;
  HostRegistration registration_;
};

/// The ceiling of all that goes to a GPU: copies of 64 MiB from pinned memory and nothing else.
class GpuLink {
 public:
  /// Borrows the device.
  explicit GpuLink(Device& device);

  double seconds_for(std::uint64_t bytes);
  Ceiling ceiling(std::uint64_t bytes);

 private:
  PinnedMemory host_;
  DeviceMemory device_;
  OwnStream stream_;
};

}  // namespace tierstream
