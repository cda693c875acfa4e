#pragma once

#include <unistd.h>

#include <cstddef>

namespace tierstream {

/// Of one page of the system's memory.
inline std::size_t page_bytes() noexcept { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

}  // namespace tierstream
