#pragma once

#include <cstdint>
#include <string>

namespace tierstream {

/// A memory cgroup of its own, version 1 or 2, for tests and benches; removed by the destructor. Making one
/// takes the right to: root's, as a rule. Threads: one at a time.
/// Errors: what cannot be read or written afterwards is a std::runtime_error that names it.
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

  /// Moves this process here: what it touches from now on is charged to this group.
  void enter();
  /// Moves it back to where it was, as the destructor does.
  void leave();

  /// What its processes are charged, page cache included.
  std::uint64_t used_bytes() const;
  /// The most of that at one time.
  std::uint64_t peak_bytes() const;
  /// Of its memory, what is locked (mlock): the kernel cannot take it back.
  std::uint64_t unevictable_bytes() const;
  /// How often the limit stood in the way of an allocation.
  std::uint64_t times_limit_was_hit() const;

 private:
  bool make(const std::string& parent, const std::string& limit_file, std::uint64_t limit_bytes);
  std::uint64_t read_number(const char* version1_file, const char* version2_file) const;

  bool unified_ = false;  ///< version 2
  bool entered_ = false;
  std::string parent_;  ///< the group that this process came from
  std::string path_;
  std::string refusal_;
};

}  // namespace tierstream
