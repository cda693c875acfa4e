#pragma once

#include <cstddef>

namespace tierstream {

/// Calls of operator new since the process, or this thread, began; those of libraries count too. Link
/// tierstream_test_allocations: it replaces operator new of the whole executable.
std::size_t allocations_so_far() noexcept;
std::size_t allocations_of_this_thread() noexcept;

}  // namespace tierstream
