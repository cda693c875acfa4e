#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace tierstream {

/// How many bytes may still be taken, and who says so.
struct MemoryRoom {
  std::uint64_t bytes;
  std::string limited_by;  ///< e.g. "MemAvailable", "memory.max of /sys/fs/cgroup/job"
};

/// Everything that limits this process's host memory: what the machine has available, and each memory cgroup
/// (v1 or v2) from the process's own up to the root that sets a limit. Pages that only cache files count as
/// room, because the kernel gives them up for others. Never empty unless /proc cannot be read.
///
/// Sources: proc(5) on MemAvailable; cgroup-v1/memory and cgroup-v2 in the kernel's documentation.
/// `root` is where /proc and /sys are looked for. Never throws for a file that is missing or odd: a limit
/// that cannot be read limits nothing.
std::vector<MemoryRoom> host_memory_rooms(const std::filesystem::path& root = "/");

/// The least of them. Where nothing is known: all of the address space, "nothing known".
MemoryRoom host_memory_room(const std::filesystem::path& root = "/");

}  // namespace tierstream
