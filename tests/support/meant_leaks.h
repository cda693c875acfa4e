#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

namespace tierstream {

/// What this thread allocates meanwhile is left to leak on purpose: LeakSanitizer does not report it.
#if defined(__SANITIZE_ADDRESS__)
using MeantLeaks = __lsan::ScopedDisabler;
#else
class MeantLeaks {
 public:
  MeantLeaks() noexcept {}
  ~MeantLeaks() {}
};
#endif

}  // namespace tierstream
