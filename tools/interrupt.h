#pragma once

#include <csignal>
#include <stop_token>
#include <thread>

namespace tierstream {

/// Turns the first SIGINT or SIGTERM into a request to stop; the next one ends the process at once.
///
/// Made by the main thread before any other thread is started, since the signals are blocked in all threads
/// but its own. Its end restores how they were.
class Interrupt {
 public:
  Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt();

  std::stop_token token() const noexcept { return source_.get_token(); }

 private:
  void wait_for_signal();

  sigset_t previous_mask_;
  int signals_;  ///< becomes readable with a signal
  int end_;      ///< becomes readable in the destructor
  std::stop_source source_;
  std::thread thread_;
};

}  // namespace tierstream
