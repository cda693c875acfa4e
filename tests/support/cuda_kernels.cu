#include "support/cuda_kernels.h"

#include <stdexcept>

namespace tierstream {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kBlocks = 64;

__global__ void spin_kernel(unsigned long long nanoseconds) {
  unsigned long long begin = 0;
  unsigned long long now = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

__global__ void checksum_kernel(const unsigned long long* words, unsigned long long count,
                                unsigned long long* sum) {
  unsigned long long own = 0;
  const unsigned long long step = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
  for (unsigned long long i = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    const unsigned long long word = words[i];
    own += (word ^ (word >> 31)) * (2 * i + 1);
  }
  atomicAdd(sum, own);
}

void check_launch() {
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) {
    throw std::runtime_error(cudaGetErrorString(status));
  }
}

}  // namespace

void spin(cudaStream_t stream, std::uint32_t microseconds) {
  spin_kernel<<<1, 1, 0, stream>>>(microseconds * 1000ull);
  check_launch();
}

void add_checksum(cudaStream_t stream, const std::byte* data, std::size_t bytes, std::uint64_t* sum) {
  checksum_kernel<<<kBlocks, kThreads, 0, stream>>>(reinterpret_cast<const unsigned long long*>(data), bytes / 8,
                                                    reinterpret_cast<unsigned long long*>(sum));
  check_launch();
}

}  // namespace tierstream
