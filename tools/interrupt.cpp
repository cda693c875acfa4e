#include "tools/interrupt.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <span>
#include <system_error>

namespace tierstream {
namespace {

sigset_t interrupting_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

void wait_until_readable(std::span<pollfd> files) {
  while (::poll(files.data(), files.size(), -1) < 0 && errno == EINTR) {
  }
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t signals = interrupting_signals();
  signals_ = ::signalfd(-1, &signals, SFD_CLOEXEC);
  end_ = ::eventfd(0, EFD_CLOEXEC);
  if (signals_ < 0 || end_ < 0) throw std::system_error(errno, std::system_category(), "signalfd");
  pthread_sigmask(SIG_BLOCK, &signals, &previous_mask_);
  thread_ = std::thread([this] { wait_for_signal(); });
}

Interrupt::~Interrupt() {
  ::eventfd_write(end_, 1);
  thread_.join();
  ::close(signals_);
  ::close(end_);
  pthread_sigmask(SIG_SETMASK, &previous_mask_, nullptr);
}

void Interrupt::wait_for_signal() {
  std::array<pollfd, 2> files = {pollfd{end_, POLLIN, 0}, pollfd{signals_, POLLIN, 0}};
  wait_until_readable(files);
  signalfd_siginfo signal;
  if (files[1].revents == 0 || ::read(signals_, &signal, sizeof signal) != sizeof signal) return;
  // From here on this thread takes the signals as they come: the default action ends a process that hangs.
  const sigset_t signals = interrupting_signals();
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  source_.request_stop();
  wait_until_readable(std::span(files).first(1));
}

}  // namespace tierstream
