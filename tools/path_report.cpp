#include "tools/path_report.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

namespace tierstream {

std::string describe_cache_use(const StoragePath& path) {
  if (!path.direct) return "buffered";
  return path.cached_reads ? "direct or cached" : "direct";
}

std::string describe_path(const StoragePath& path, const std::string& ring_refusal) {
  std::string text = fmt::format("path    {}, {}, files {}registered, buffers {}registered\n", path.backend,
                                 describe_cache_use(path), path.files_registered ? "" : "not ",
                                 path.buffers_registered ? "" : "not ");
  for (const Fallback& fallback : path.fallbacks) {
    text += fmt::format("        no {}: {}\n", fallback.wanted, printable(fallback.reason));
  }
  if (!ring_refusal.empty()) {
    text += fmt::format("        no registered ring: {}\n", printable(ring_refusal));
  }
  return text;
}

nlohmann::json path_to_json(const StoragePath& path, const std::string& ring_refusal) {
  nlohmann::json fallbacks = nlohmann::json::array();
  for (const Fallback& fallback : path.fallbacks) {
    fallbacks.push_back({{"wanted", fallback.wanted}, {"reason", fallback.reason}});
  }
  if (!ring_refusal.empty()) {
    fallbacks.push_back({{"wanted", "registered ring"}, {"reason", ring_refusal}});
  }
  return {{"backend", path.backend},
          {"direct", path.direct},
          {"cached_reads", path.cached_reads},
          {"files_registered", path.files_registered},
          {"buffers_registered", path.buffers_registered},
          {"fallbacks", std::move(fallbacks)}};
}

}  // namespace tierstream
