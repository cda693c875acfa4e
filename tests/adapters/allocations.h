#pragma once

#include <cstddef>

namespace tierstream {

/// How often this thread has called operator new since it began, in torch's libraries too.
std::size_t allocations_of_this_thread() noexcept;

}  // namespace tierstream
