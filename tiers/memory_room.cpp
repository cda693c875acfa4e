#include <tierstream/tiers/memory_room.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

namespace tierstream {
namespace {

namespace fs = std::filesystem;

std::optional<std::uint64_t> to_number(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  std::uint64_t number = 0;
  const auto [end, status] = std::from_chars(text.data() + first, text.data() + text.size(), number);
  if (status != std::errc{}) return {};
  return number;
}

/// The file's only number; nothing for "max" or a file that is not there.
std::optional<std::uint64_t> read_number(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return {};
  return to_number(line);
}

/// The number behind `key` at the beginning of a line.
std::optional<std::uint64_t> read_field(const fs::path& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return to_number(std::string_view(line).substr(key.size()));
  }
  return {};
}

/// How the two versions of cgroups name the same things.
struct CgroupFiles {
  const char* mount;
  const char* limit;
  const char* usage;
  const char* inactive_file;
  const char* active_file;
};
constexpr CgroupFiles kVersion1{"sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                "total_inactive_file ", "total_active_file "};
constexpr CgroupFiles kVersion2{"sys/fs/cgroup", "memory.max", "memory.current", "inactive_file ",
                                "active_file "};

std::optional<MemoryRoom> room_in(const fs::path& directory, const CgroupFiles& files) {
  // Version 1 has no word for "no limit" but a number near 2^63.
  constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 60;
  const std::optional<std::uint64_t> limit = read_number(directory / files.limit);
  const std::optional<std::uint64_t> usage = read_number(directory / files.usage);
  if (!limit || *limit >= kNoLimit || !usage) return {};
  const fs::path stat = directory / "memory.stat";
  const std::uint64_t cached =
      read_field(stat, files.inactive_file).value_or(0) + read_field(stat, files.active_file).value_or(0);
  const std::uint64_t held = *usage - std::min(*usage, cached);
  return MemoryRoom{*limit - std::min(*limit, held),
                    std::string(files.limit) + " of " + directory.lexically_normal().string()};
}

/// From the process's own cgroup up to the mount. In a container the path may be that of another namespace:
/// what is not there is passed over.
void add_cgroups(std::vector<MemoryRoom>& rooms, const fs::path& root, const CgroupFiles& files,
                 const fs::path& cgroup) {
  const fs::path mount = root / files.mount;
  for (fs::path path = cgroup.relative_path();; path = path.parent_path()) {
    const fs::path directory = path.empty() ? mount : mount / path;
    if (std::optional<MemoryRoom> room = room_in(directory, files)) rooms.push_back(std::move(*room));
    if (path.empty()) return;
  }
}

bool names_controller(std::string_view list, std::string_view controller) {
  while (!list.empty()) {
    const std::string_view one = list.substr(0, list.find(','));
    if (one == controller) return true;
    list.remove_prefix(std::min(list.size(), one.size() + 1));
  }
  return false;
}

}  // namespace

std::vector<MemoryRoom> host_memory_rooms(const fs::path& root) {
  std::vector<MemoryRoom> rooms;
  if (const auto available = read_field(root / "proc/meminfo", "MemAvailable:")) {
    rooms.push_back({*available * 1024, "MemAvailable"});
  }
  // Lines are "number:controllers:path"; version 2 has number 0 and no controllers.
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string_view controllers(line.data() + first + 1, second - first - 1);
    const fs::path path = line.substr(second + 1);
    if (names_controller(controllers, "memory")) {
      add_cgroups(rooms, root, kVersion1, path);
    } else if (controllers.empty()) {
      add_cgroups(rooms, root, kVersion2, path);
    }
  }
  return rooms;
}

MemoryRoom host_memory_room(const fs::path& root) {
  const std::vector<MemoryRoom> rooms = host_memory_rooms(root);
  const auto least = std::ranges::min_element(rooms, {}, &MemoryRoom::bytes);
  if (least == rooms.end()) return {std::numeric_limits<std::uint64_t>::max(), "nothing known"};
  return *least;
}

}  // namespace tierstream
