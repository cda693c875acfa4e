#pragma once

#include <tierstream/io/storage_backend.h>
#include <tierstream/tiers/device.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "staging.h"

namespace tierstream {

/// The one thread that owns all streaming state, for one Staging after another: the storage's queue belongs
/// to the thread that used it first. Threads: its members are called by one at a time.
class StagingThread {
 public:
  /// `end_timeout`: how long `stop` lets reads and copies under way take.
  StagingThread(Device& device, StorageBackend& storage, std::chrono::milliseconds end_timeout);
  ~StagingThread() { stop(); }

  /// Steps the loop of `staging` until `stop`. `first` is called before, on the thread.
  void start(Staging& staging, std::function<void()> first = {});
  /// Brings what is under way to its end; the staging is then no longer touched. Returns why it did not end,
  /// and empty where it did. Idempotent.
  std::string stop() noexcept;

 private:
  void run(const std::stop_token& stop) noexcept;
  void work(Staging& staging) noexcept;
  void drain(Staging& staging) noexcept;

  Device& device_;
  StorageBackend& storage_;
  const std::chrono::milliseconds end_timeout_;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  Staging* staging_ = nullptr;  // null: the thread rests
  std::function<void()> first_;
  std::string failure_;
  std::atomic<bool> stopping_ = false;
  std::jthread thread_;  // last: it uses the other members
};

}  // namespace tierstream
