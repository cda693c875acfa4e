#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace tierstream {

/// Lets one thread wait until another wakes it: `do_wake` and the wait of a StorageBackend that has nothing
/// else to wait for. A wake that comes before the wait is not lost. Threads: `wake` any thread, `wait` one
/// thread at a time.
class WakeSignal {
 public:
  void wake() noexcept {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_one();
  }

  void wait(std::chrono::nanoseconds limit) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, limit, [this] { return woken_; });
    woken_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
};

}  // namespace tierstream
