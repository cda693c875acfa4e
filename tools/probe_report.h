#pragma once

#include <tierstream/io/storage_backend.h>
#include <tierstream/tiers/memory_room.h>

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tools/link_probe.h"
#include "tools/machine_limits.h"

namespace tierstream {

/// What `tierstream probe` found out.
struct ProbeReport {
  std::string directory;  ///< where the file lay that was read
  std::uint64_t file_bytes = 0;
  std::string device;
  StorageRates storage;
  DeviceRates links;
  std::vector<MemoryRoom> host_rooms;
  MemoryRoom device_room;
  LockLimit lock;
  StoragePath path;
};

/// A table of links for people; lines of at most 80 columns, but for reasons.
std::string describe_links(std::initializer_list<std::pair<const char*, const LinkRate&>> links);

/// For people; lines of at most 80 columns, but for reasons and cgroups' names.
std::string describe(const ProbeReport& report);

/// For programs: a key, once there, keeps its name and meaning.
nlohmann::json to_json(const ProbeReport& report);

}  // namespace tierstream
