#include "tools/probe_report.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>

#include <utility>

#include "tools/path_report.h"

namespace tierstream {
namespace {

using nlohmann::json;

std::string describe_link(const char* name, const LinkRate& rate) {
  if (!rate.refusal.empty()) return fmt::format("{:<22}not measured: {}\n", name, printable(rate.refusal));
  const std::string spread = fmt::format("{:.2f}-{:.2f}", rate.low_quartile / 1e9, rate.high_quartile / 1e9);
  return fmt::format("{:<22}{:>8.2f}  {:<14}  {}\n", name, rate.bytes_per_second / 1e9, spread, rate.how);
}

std::string describe_room(const char* label, const MemoryRoom& room) {
  return fmt::format("{:<8}{} left by {}\n", label, format_bytes(room.bytes), printable(room.limited_by));
}

std::string describe_lock(const LockLimit& lock) {
  if (!lock.bytes) return "locked  no limit (RLIMIT_MEMLOCK)\n";
  return fmt::format("locked  {} by RLIMIT_MEMLOCK{}\n", format_bytes(*lock.bytes),
                     lock.lifted ? ", which a privilege lifts" : "");
}

json link_to_json(const LinkRate& rate) {
  if (!rate.refusal.empty()) return {{"bytes_per_second", nullptr}, {"refusal", rate.refusal}};
  return {{"bytes_per_second", rate.bytes_per_second},
          {"low_quartile", rate.low_quartile},
          {"high_quartile", rate.high_quartile},
          {"how", rate.how}};
}

json room_to_json(const MemoryRoom& room) { return {{"bytes", room.bytes}, {"limited_by", room.limited_by}}; }

json lock_to_json(const LockLimit& lock) {
  return {{"bytes", lock.bytes ? json(*lock.bytes) : json(nullptr)}, {"lifted", lock.lifted}};
}

}  // namespace

std::string describe_links(std::initializer_list<std::pair<const char*, const LinkRate&>> links) {
  std::string text = fmt::format("{:<22}{:>8}  {:<14}  {}\n", "link", "GB/s", "quartiles", "how");
  for (const auto& [name, rate] : links) text += describe_link(name, rate);
  return text;
}

std::string describe(const ProbeReport& report) {
  const StorageRates& storage = report.storage;
  std::string text = describe_links({{"disk, direct", storage.disk_direct},
                                     {"disk, buffered, cold", storage.disk_buffered},
                                     {"page cache, 1 thread", storage.page_cache_one_thread},
                                     {"page cache, threads", storage.page_cache},
                                     {"host to device", report.links.host_to_device},
                                     {"device to host", report.links.device_to_host},
                                     {"registration", report.links.registration}});
  text += '\n';
  text += fmt::format("device  {}\n", report.device);
  text += describe_room("", report.device_room);
  const char* label = "host";
  for (const MemoryRoom& room : report.host_rooms) text += describe_room(std::exchange(label, ""), room);
  return text + describe_lock(report.lock) + describe_path(report.path);
}

json to_json(const ProbeReport& report) {
  const StorageRates& storage = report.storage;
  json sweep = json::array();
  for (const LinkRate& rate : storage.direct_sweep) sweep.push_back(link_to_json(rate));
  json host_rooms = json::array();
  for (const MemoryRoom& room : report.host_rooms) host_rooms.push_back(room_to_json(room));
  return {{"directory", report.directory},
          {"file_bytes", report.file_bytes},
          {"device", report.device},
          {"links",
           {{"disk_direct", link_to_json(storage.disk_direct)},
            {"disk_buffered", link_to_json(storage.disk_buffered)},
            {"page_cache_one_thread", link_to_json(storage.page_cache_one_thread)},
            {"page_cache", link_to_json(storage.page_cache)},
            {"host_to_device", link_to_json(report.links.host_to_device)},
            {"device_to_host", link_to_json(report.links.device_to_host)},
            {"registration", link_to_json(report.links.registration)}}},
          {"rates",
           {{"disk", storage.disk()},
            {"page_cache", storage.page_cache.bytes_per_second},
            {"host_to_device", report.links.host_to_device.bytes_per_second}}},
          {"direct_sweep", std::move(sweep)},
          {"host_memory", std::move(host_rooms)},
          {"device_memory", room_to_json(report.device_room)},
          {"locked_memory", lock_to_json(report.lock)},
          {"path", path_to_json(report.path)}};
}

}  // namespace tierstream
