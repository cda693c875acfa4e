#include "tools/memory_cgroup.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace tierstream {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRoot = "/sys/fs/cgroup";

/// This process's place in the hierarchy of `controller` ("" for version 2), as /proc/self/cgroup says.
std::string own_place(const std::string& controller) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:memory:/a/b", "0::/a/b"
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (line.substr(first + 1, second - first - 1) == controller) return line.substr(second + 1);
  }
  return "/";
}

bool write_value(const std::string& path, const std::string& value) {
  std::ofstream file(path);
  file << value << std::flush;
  return file.good();
}

void move_this_process_to(const std::string& group) {
  if (write_value(group + "/cgroup.procs", std::to_string(::getpid()))) return;
  throw std::runtime_error("cannot enter " + group);
}

/// Of a file of lines "name number".
std::uint64_t find_number(const std::string& path, const std::string& wanted) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  for (std::string name; file >> name >> number;) {
    if (name == wanted) return number;
  }
  throw std::runtime_error("no \"" + wanted + "\" in " + path);
}

}  // namespace

MemoryCgroup::MemoryCgroup(std::uint64_t limit_bytes) {
  unified_ = fs::exists(std::string(kRoot) + "/cgroup.controllers");
  const std::string mount = unified_ ? kRoot : std::string(kRoot) + "/memory";
  const std::string limit_file = unified_ ? "memory.max" : "memory.limit_in_bytes";
  // In a container the mount may show this process's own group as its root.
  for (const std::string& parent : {mount + own_place(unified_ ? "" : "memory"), mount}) {
    if (make(parent, limit_file, limit_bytes)) return;
  }
  path_.clear();
}

bool MemoryCgroup::make(const std::string& parent, const std::string& limit_file, std::uint64_t limit_bytes) {
  if (unified_) write_value(parent + "/cgroup.subtree_control", "+memory");  // may be on already
  parent_ = parent;
  path_ = parent + "/tierstream-" + std::to_string(::getpid());
  std::error_code error;
  if (!fs::create_directory(path_, error)) {
    refusal_ = "cannot make " + path_ + ": " + error.message();
    return false;
  }
  const std::string peak_file = path_ + (unified_ ? "/memory.peak" : "/memory.max_usage_in_bytes");
  if (!write_value(path_ + "/" + limit_file, std::to_string(limit_bytes)) || !fs::exists(peak_file)) {
    refusal_ = "no memory limit or no peak in " + path_;
    fs::remove(path_, error);
    return false;
  }
  refusal_.clear();
  return true;
}

MemoryCgroup::~MemoryCgroup() {
  if (path_.empty()) return;
  if (entered_) write_value(parent_ + "/cgroup.procs", std::to_string(::getpid()));
  ::rmdir(path_.c_str());
}

void MemoryCgroup::enter() {
  move_this_process_to(path_);
  entered_ = true;
}

void MemoryCgroup::leave() {
  move_this_process_to(parent_);
  entered_ = false;
}

std::uint64_t MemoryCgroup::read_number(const char* version1_file, const char* version2_file) const {
  const std::string path = path_ + "/" + (unified_ ? version2_file : version1_file);
  std::ifstream file(path);
  std::uint64_t number = 0;
  if (!(file >> number)) throw std::runtime_error("no number in " + path);
  return number;
}

std::uint64_t MemoryCgroup::used_bytes() const {
  return read_number("memory.usage_in_bytes", "memory.current");
}

std::uint64_t MemoryCgroup::peak_bytes() const {
  return read_number("memory.max_usage_in_bytes", "memory.peak");
}

std::uint64_t MemoryCgroup::unevictable_bytes() const {
  return find_number(path_ + "/memory.stat", "unevictable");
}

std::uint64_t MemoryCgroup::times_limit_was_hit() const {
  return unified_ ? find_number(path_ + "/memory.events", "max") : read_number("memory.failcnt", "");
}

}  // namespace tierstream
