#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace tierstream {

/// One object as text for a stream; bytes that are not UTF-8 are replaced instead of refused.
std::string json_text(const nlohmann::json& object);

}  // namespace tierstream
