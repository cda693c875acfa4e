#include "fork_guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

#include "page_bytes.h"

namespace tierstream {

ForkGuard::ForkGuard() : process_(::getpid()) {
  void* const page =
      ::mmap(nullptr, page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw std::bad_alloc();
  is_wiped_on_fork_ = ::madvise(page, page_bytes(), MADV_WIPEONFORK) == 0;
  *static_cast<unsigned char*>(page) = 1;
  page_ = static_cast<const unsigned char*>(page);
}

ForkGuard::~ForkGuard() { ::munmap(const_cast<unsigned char*>(page_), page_bytes()); }

}  // namespace tierstream
