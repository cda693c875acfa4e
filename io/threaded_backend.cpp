#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/io/threaded_backend.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

namespace tierstream {
namespace {

/// First in, first out, of at most `capacity` elements, all allocated at the start.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(std::size_t capacity) : elements_(capacity) {}

  bool empty() const { return size_ == 0; }
  void push(const T& element) {
    elements_[(first_ + size_) % elements_.size()] = element;
    ++size_;
  }
  T pop() {
    T element = elements_[first_];
    first_ = (first_ + 1) % elements_.size();
    --size_;
    return element;
  }

 private:
  std::vector<T> elements_;
  std::size_t first_ = 0;
  std::size_t size_ = 0;
};

class ThreadedBackend final : public StorageBackend {
 public:
  ThreadedBackend(std::unique_ptr<BlockingStorage> storage, const ThreadedOptions& options)
      : StorageBackend({.max_in_flight = options.max_in_flight,
                        .max_cached_in_flight = options.max_cached_in_flight,
                        .busy_pause = kBusyPause}),
        workshop_(std::make_unique<Workshop>(std::move(storage), options, limits().max_cached_in_flight)) {}

  ~ThreadedBackend() override {
    // The child has no worker to join, and a condition variable with waiters cannot be destroyed there.
    if (in_child_process()) static_cast<void>(workshop_.release());
  }

 private:
  /// What the workers share with the backend.
  class Workshop {
   public:
    Workshop(std::unique_ptr<BlockingStorage> storage, const ThreadedOptions& options, std::size_t most_reads)
        : storage_(std::move(storage)), waiting_(most_reads), finished_(most_reads) {
      try {
        for (std::size_t i = 0; i < options.threads; ++i) workers_.emplace_back([this] { work(); });
      } catch (const std::system_error& failure) {
        const std::size_t started = workers_.size();
        stop();
        throw Error(Errc::kBackendUnavailable,
                    fmt::format("only {} of {} threads could be started", started, options.threads),
                    {.backend = storage_->path().backend}, failure.code());
      }
    }

    ~Workshop() { stop(); }
    Workshop(const Workshop&) = delete;
    Workshop& operator=(const Workshop&) = delete;

    BlockingStorage& storage() const { return *storage_; }

    void submit(std::span<const RawRead> reads) {
      const std::lock_guard lock(mutex_);
      for (const RawRead& read : reads) waiting_.push(read);
      reads.size() == 1 ? work_to_do_.notify_one() : work_to_do_.notify_all();
    }

    std::size_t collect(std::span<RawCompletion> completions, std::chrono::nanoseconds wait) {
      std::unique_lock lock(mutex_);
      news_.wait_for(lock, wait, [this] { return woken_ || !finished_.empty(); });
      woken_ = false;
      std::size_t count = 0;
      while (count < completions.size() && !finished_.empty()) completions[count++] = finished_.pop();
      return count;
    }

    void wake() noexcept {
      const std::lock_guard lock(mutex_);
      woken_ = true;
      news_.notify_one();
    }

   private:
    void work() {
      std::unique_lock lock(mutex_);
      for (;;) {
        work_to_do_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (stopping_) return;
        const RawRead read = waiting_.pop();
        lock.unlock();
        const std::int64_t result = read.cached
                                        ? storage_->read_cached(read.file, read.offset, read.destination)
                                        : storage_->read(read.file, read.offset, read.destination);
        lock.lock();
        finished_.push({read.id, result});
        news_.notify_one();
      }
    }

    /// Reads that have begun end; those that have not never will.
    void stop() {
      {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
        work_to_do_.notify_all();
      }
      workers_.clear();
    }

    std::unique_ptr<BlockingStorage> storage_;
    std::mutex mutex_;  // guards the four members below
    BoundedQueue<RawRead> waiting_;
    BoundedQueue<RawCompletion> finished_;
    bool woken_ = false;
    bool stopping_ = false;
    std::condition_variable work_to_do_;
    std::condition_variable news_;
    std::vector<std::jthread> workers_;
  };

  FileInfo do_open(FileId file, const std::string& path) override {
    return workshop_->storage().open(file, path);
  }
  bool do_is_cached(FileId file, std::uint64_t offset, std::uint64_t bytes) override {
    return workshop_->storage().is_cached(file, offset, bytes);
  }
  void do_submit(std::span<const RawRead> reads) override { workshop_->submit(reads); }
  std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds wait) override {
    return workshop_->collect(completions, wait);
  }
  void do_wake() noexcept override { workshop_->wake(); }
  bool do_drop_direct(FileId file) override { return workshop_->storage().drop_direct(file); }
  StoragePath do_path() const override { return workshop_->storage().path(); }

  std::unique_ptr<Workshop> workshop_;
};

}  // namespace

std::unique_ptr<StorageBackend> make_threaded_backend(std::unique_ptr<BlockingStorage> storage,
                                                      const ThreadedOptions& options) {
  if (options.threads == 0)
    throw Error(Errc::kInvalidArgument, "a threaded backend needs at least one thread");
  return std::make_unique<ThreadedBackend>(std::move(storage), options);
}

}  // namespace tierstream
