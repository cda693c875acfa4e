#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace tierstream {

/// Keeps `stream` busy for this long, with one thread of the GPU.
void spin(cudaStream_t stream, std::uint32_t microseconds);

/// Adds the checksum of `bytes` bytes of device memory, a multiple of 8 at a multiple of 8, to `*sum` in
/// device memory. May be captured into a graph.
void add_checksum(cudaStream_t stream, const std::byte* data, std::size_t bytes, std::uint64_t* sum);

/// The same on the host. It tells apart bytes that differ, words that changed places, and words left out.
inline std::uint64_t checksum(std::span<const std::byte> data) {
  std::uint64_t sum = 0;
  for (std::uint64_t i = 0; i < data.size() / 8; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, data.data() + i * 8, 8);
    sum += (word ^ (word >> 31)) * (2 * i + 1);
  }
  return sum;
}

}  // namespace tierstream
