#pragma once

#include <sys/types.h>
#include <unistd.h>

namespace tierstream {

/// Knows whether the process has forked since it was made, without a system call for each question: it has a
/// page that the kernel clears in the child (MADV_WIPEONFORK, Linux 4.14). Where that is refused it asks for
/// the process id each time.
///
/// Threads: any. Errors: the constructor throws std::bad_alloc.
class ForkGuard {
 public:
  ForkGuard();
  ~ForkGuard();
  ForkGuard(const ForkGuard&) = delete;
  ForkGuard& operator=(const ForkGuard&) = delete;

  bool in_child_process() const noexcept { return is_wiped_on_fork_ ? *page_ == 0 : ::getpid() != process_; }

 private:
  const volatile unsigned char* page_;
  bool is_wiped_on_fork_;
  pid_t process_;
};

}  // namespace tierstream
