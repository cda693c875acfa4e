#include "support/allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<std::size_t> of_all_threads = 0;
thread_local std::size_t of_this_thread = 0;
}  // namespace

// Not inlined: the compiler would take malloc and operator delete, or operator new and free, for a mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++of_all_threads;
  ++of_this_thread;
  if (void* memory = std::malloc(bytes != 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

std::size_t tierstream::allocations_so_far() noexcept { return of_all_threads; }
std::size_t tierstream::allocations_of_this_thread() noexcept { return of_this_thread; }
