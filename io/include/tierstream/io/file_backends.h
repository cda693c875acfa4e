#pragma once

#include <tierstream/io/storage_backend.h>
#include <tierstream/io/storage_registry.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tierstream {

/// Reads by io_uring: one ring, owned by the thread that submits first; O_DIRECT; registered files and, where
/// the kernel's limits allow, buffers.
/// Throws Error kBackendUnavailable, saying who forbids it (sysctl, seccomp, kernel, memory limit).
std::unique_ptr<StorageBackend> make_io_uring_backend(const StorageOptions& options = {});

/// Reads by `pread` on threads of its own: where io_uring is refused, as fast on large reads.
std::unique_ptr<StorageBackend> make_posix_backend(const StorageOptions& options = {});

/// io_uring, or posix with the reason kept in `path()`.
std::unique_ptr<StorageBackend> make_file_backend(const StorageOptions& options = {});

/// Files that lie in memory, by path.
using MemoryFiles = std::map<std::string, std::vector<std::byte>>;
/// Several backends read the same files (one for headers, one a streamer), hence shared.
std::unique_ptr<StorageBackend> make_memory_backend(std::shared_ptr<const MemoryFiles> files,
                                                    const StorageOptions& options = {});

}  // namespace tierstream
