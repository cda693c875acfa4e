#include "bench/gpu_link.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <string>

#include "tools/timing.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kPieceBytes = 64u << 20;
constexpr std::uint64_t kMemoryBytes = 4 * kPieceBytes;

}  // namespace

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  throw Error(Errc::kDeviceFailed, fmt::format("{}: {}", call, cudaGetErrorString(status)));
}

OwnStream::OwnStream() {
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

OwnStream::~OwnStream() { cudaStreamDestroy(stream_); }

void OwnStream::copy(std::byte* to, const std::byte* from, std::uint64_t bytes) const {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
}

void OwnStream::wait() const { check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

PinnedMemory::PinnedMemory(Device& device, std::uint64_t bytes) : memory_(bytes) {
  std::string refusal;
  HostMemory::populate(memory_.span());
  registration_ = device.register_host(memory_.span(), refusal);
  if (!registration_) throw Error(Errc::kDeviceFailed, refusal);
}

GpuLink::GpuLink(Device& device) : host_(device, kMemoryBytes), device_(device.allocate(kMemoryBytes)) {}

double GpuLink::seconds_for(std::uint64_t bytes) {
  return seconds_of([&] {
    for (std::uint64_t done = 0; done < bytes; done += kPieceBytes) {
      const std::uint64_t place = done % kMemoryBytes;
      stream_.copy(device_.data() + place, host_.data() + place, std::min(kPieceBytes, bytes - done));
    }
    stream_.wait();
  });
}

Ceiling GpuLink::ceiling(std::uint64_t bytes) {
  return {"copies of 64 MiB from pinned memory", [this, bytes] { return seconds_for(bytes); }};
}

}  // namespace tierstream
