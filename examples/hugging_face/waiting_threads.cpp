#include "hugging_face/waiting_threads.h"

#include <ATen/Parallel.h>
#include <strings.h>

#include <cstdlib>

namespace tierstream {

std::string waiting_threads_hint(const Plan& plan, bool is_host) {
  if (!is_host || plan.disk_bytes + plan.copied_bytes == 0 || at::get_num_threads() == 1) return {};
  const char* const policy = std::getenv("OMP_WAIT_POLICY");
  if (policy != nullptr && strcasecmp(policy, "passive") == 0) return {};
  return "without OMP_WAIT_POLICY=passive, a pass may take many times as long";
}

}  // namespace tierstream
