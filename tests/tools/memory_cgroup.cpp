#include "memory_cgroup.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
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

std::uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  if (!(file >> number)) throw std::runtime_error("no number in " + path);
  return number;
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
  path_ = parent + "/tierstream-test-" + std::to_string(::getpid());
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
  if (!path_.empty()) ::rmdir(path_.c_str());
}

std::uint64_t MemoryCgroup::peak_bytes() const {
  return read_number(path_ + (unified_ ? "/memory.peak" : "/memory.max_usage_in_bytes"));
}

std::uint64_t MemoryCgroup::times_limit_was_hit() const {
  if (!unified_) return read_number(path_ + "/memory.failcnt");
  std::ifstream events(path_ + "/memory.events");
  std::uint64_t count = 0;
  for (std::string name; events >> name >> count;) {
    if (name == "max") return count;
  }
  throw std::runtime_error("no \"max\" in " + path_ + "/memory.events");
}

}  // namespace tierstream
