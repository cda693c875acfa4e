#pragma once

#include <cstdint>

namespace tierstream {

inline constexpr std::uint64_t kMiB = 1u << 20;

}  // namespace tierstream
