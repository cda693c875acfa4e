#include "tools/machine_limits.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/tiers/host_memory.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <memory>

namespace tierstream {
namespace {

constexpr std::size_t kRingBytes = 64u << 20;
constexpr std::size_t kReadBytes = 1u << 20;
constexpr std::size_t kPageBytes = 4096;

/// Locks pages that nothing has touched: no memory is taken.
bool can_lock(std::size_t bytes) {
  void* const mapping = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return false;
  const bool locked = ::mlock2(mapping, bytes, MLOCK_ONFAULT) == 0;
  ::munmap(mapping, bytes);
  return locked;
}

}  // namespace

LockLimit lock_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return {};
  return {.bytes = limit.rlim_cur, .lifted = can_lock(limit.rlim_cur + kPageBytes)};
}

StoragePath try_storage(const std::string& file) {
  const HostMemory memory(kRingBytes);  // outlives the backend
  const std::unique_ptr<StorageBackend> storage = make_file_backend();
  const FileId id = storage->open(file);
  storage->register_memory(memory.span());
  const std::array request = {
      ReadRequest{.tag = 0, .file = id, .offset = 0, .destination = memory.span().first(kReadBytes)}};
  storage->submit(request);
  std::array<Completion, 1> completion{};
  while (storage->collect(completion, std::chrono::nanoseconds::max()) == 0) {
  }
  if (completion[0].error) throw Error(Errc::kReadFailed, "read failed", {.file = file}, completion[0].error);
  return storage->path();
}

}  // namespace tierstream
