#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <span>
#include <vector>

namespace tierstream {

namespace detail {

/// Filters the system calls of the calling thread and of those that it starts; with SECCOMP_FILTER_FLAG_TSYNC
/// in `flags`, of all threads.
inline void install_filter(std::span<sock_filter> code, unsigned flags) {
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) std::_Exit(90);
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) != 0) std::_Exit(91);
}

}  // namespace detail

/// Makes one system call of this process fail with EPERM from now on, as container runtimes do. For the
/// child process of a death test.
inline void forbid(long system_call) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<__u32>(system_call), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  detail::install_filter(code, 0);
}

/// No thread can be started any more, as where a limit of processes is reached. For the child process of a
/// death test.
inline void forbid_threads() {
  forbid(SYS_clone3);
  forbid(SYS_clone);
}

/// From now on any thread of this process that makes a system call other than these ends the process, which
/// says its number on standard error. For the child process of a death test.
inline void allow_only(std::span<const long> system_calls) {
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    std::array<char, 32> line{};
    const auto end = std::to_chars(line.begin(), line.end(), info->si_syscall);
    if (::write(STDERR_FILENO, line.data(), static_cast<std::size_t>(end.ptr - line.data())) < 0)
      std::abort();
    std::_Exit(92);
  };
  if (::sigaction(SIGSYS, &action, nullptr) != 0) std::_Exit(93);
  std::vector<sock_filter> code{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  const auto allow = [&](long system_call) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<__u32>(system_call), 0, 1));
    code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  };
  for (const long system_call : system_calls) allow(system_call);
  for (const long system_call : {SYS_write, SYS_exit_group, SYS_rt_sigprocmask}) allow(system_call);
  code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
  detail::install_filter(code, SECCOMP_FILTER_FLAG_TSYNC);
}

}  // namespace tierstream
