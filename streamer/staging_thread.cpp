#include "staging_thread.h"

#include <tierstream/io/start_thread.h>

#include <exception>
#include <utility>

namespace tierstream {

StagingThread::StagingThread(Device& device, StorageBackend& storage, std::chrono::milliseconds end_timeout)
    : device_(device),
      storage_(storage),
      end_timeout_(end_timeout),
      thread_(start_thread("staging", [this](const std::stop_token& stop) { run(stop); })) {}

void StagingThread::start(Staging& staging, std::function<void()> first) {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = false;
    failure_.clear();
    first_ = std::move(first);
    staging_ = &staging;
  }
  changed_.notify_all();
}

std::string StagingThread::stop() noexcept {
  std::unique_lock lock(mutex_);
  if (staging_ != nullptr) {
    stopping_ = true;
    storage_.wake();
    changed_.wait(lock, [this] { return staging_ == nullptr; });
  }
  return std::exchange(failure_, {});
}

void StagingThread::run(const std::stop_token& stop) noexcept {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [this] { return staging_ != nullptr; })) {
    Staging& staging = *staging_;
    lock.unlock();
    work(staging);
    lock.lock();
    staging_ = nullptr;
    changed_.notify_all();
  }
}

void StagingThread::work(Staging& staging) noexcept {
  try {
    device_.enter_staging_thread();
    if (first_) first_();
    while (!stopping_) staging.loop().step();
  } catch (...) {
    staging.hand_off().fail_for_good(std::current_exception());
  }
  drain(staging);
}

void StagingThread::drain(Staging& staging) noexcept {
  const SteadyClock clock;
  try {
    const auto deadline = clock.now() + end_timeout_;
    staging.loop().stop();
    while (!staging.loop().drained()) {
      if (clock.now() > deadline) {
        failure_ = "a read or copy did not end";
        return;
      }
      staging.loop().step();
    }
    storage_.unregister_memory();  // on the thread that owns the queue, before the memory goes
  } catch (const std::exception& error) {
    failure_ = error.what();
  }
}

}  // namespace tierstream
