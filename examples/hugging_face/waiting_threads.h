#pragma once

#include <tierstream/tiers/plan.h>

#include <string>

namespace tierstream {

/// A line for people where several threads of LibTorch's may spin while they wait, on the cores that bring
/// what `plan` streams: the device is the host, and the environment does not say OMP_WAIT_POLICY=passive.
/// Else empty.
std::string waiting_threads_hint(const Plan& plan, bool is_host);

}  // namespace tierstream
