#pragma once

#include <tierstream/io/storage_backend.h>

#include <cstdint>
#include <optional>
#include <string>

namespace tierstream {

/// How many bytes this process may lock.
struct LockLimit {
  std::optional<std::uint64_t> bytes;  ///< RLIMIT_MEMLOCK; empty: unlimited
  bool lifted = false;                 ///< a privilege (CAP_IPC_LOCK) lets the process lock more
};
/// Tries it: the capability's name alone says too little, since in a user namespace it does not lift the
/// limit.
LockLimit lock_limit();

/// Which way bytes of `file` take through the storage backend for files: io_uring or not, direct or not, with
/// how much registered of a ring of 64 MiB; and the reason for each fallback.
/// Throws Error where the file cannot be read.
StoragePath try_storage(const std::string& file);

}  // namespace tierstream
