#pragma once

#include <cstdint>
#include <string>

namespace tierstream {

/// A memory cgroup of its own, version 1 or 2, removed by the destructor.
class MemoryCgroup {
 public:
  explicit MemoryCgroup(std::uint64_t limit_bytes);
  MemoryCgroup(const MemoryCgroup&) = delete;
  MemoryCgroup& operator=(const MemoryCgroup&) = delete;
  ~MemoryCgroup();

  /// Why there is none; empty when there is one.
  const std::string& refusal() const { return refusal_; }
  /// Its directory in the cgroup file system.
  const std::string& path() const { return path_; }
  /// The most memory that its processes were charged at one time, page cache included.
  std::uint64_t peak_bytes() const;
  /// How often the limit stood in the way of an allocation.
  std::uint64_t times_limit_was_hit() const;

 private:
  bool make(const std::string& parent, const std::string& limit_file, std::uint64_t limit_bytes);

  bool unified_ = false;  ///< version 2
  std::string path_;
  std::string refusal_;
};

}  // namespace tierstream
