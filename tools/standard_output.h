#pragma once

#include <tierstream/io/error.h>

#include <cstdio>

namespace tierstream {

/// Called when all is printed. Throws Error kWriteFailed where something did not get out, now or earlier.
inline void finish_standard_output() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    throw Error(Errc::kWriteFailed, "cannot write to standard output");
  }
}

}  // namespace tierstream
