#pragma once

#include <tierstream/io/storage_backend.h>

#include <nlohmann/json.hpp>
#include <string>

namespace tierstream {

/// "direct", "buffered", or "direct or cached": request by request, from the page cache what lies there.
std::string describe_cache_use(const StoragePath& path);

/// For people: the way that bytes really took, and what was wished for and not had; lines of at most 80
/// columns, but for reasons. `ring_refusal`: why a streamer's ring is not registered; empty: it is, or there
/// is none.
std::string describe_path(const StoragePath& path, const std::string& ring_refusal = {});

/// The same for programs: a key, once there, keeps its name and meaning.
nlohmann::json path_to_json(const StoragePath& path, const std::string& ring_refusal = {});

}  // namespace tierstream
