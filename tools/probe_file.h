#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "tools/link_probe.h"

namespace tierstream {

/// A file to measure a disk by, of a name of its own; removed at its end.
/// Errors: Error kWriteFailed where none can be made or written.
class ProbeFile {
 public:
  /// Empty.
  explicit ProbeFile(const std::string& directory);
  ProbeFile(const ProbeFile&) = delete;
  ProbeFile& operator=(const ProbeFile&) = delete;
  ~ProbeFile();

  const std::string& path() const noexcept { return path_; }
  /// Contents that no file system makes smaller; none of it stays in the page cache. `on_room` is called when
  /// there is room for it all, before anything is written. Of `options`, those for progress and for stopping.
  void write(std::uint64_t bytes, const LinkProbeOptions& options,
             const std::function<void()>& on_room = {}) const;

 private:
  std::string path_;
};

}  // namespace tierstream
