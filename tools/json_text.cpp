#include "tools/json_text.h"

namespace tierstream {

std::string json_text(const nlohmann::json& object) {
  return object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace tierstream
