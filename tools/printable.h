#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tierstream {

/// `text` with its control characters escaped: names come from files that may be hostile, and would otherwise
/// break a line or command the terminal.
std::string printable(std::string_view text);

/// One object as text for a stream; bytes that are not UTF-8 are replaced instead of refused.
std::string json_text(const nlohmann::json& object);

}  // namespace tierstream
