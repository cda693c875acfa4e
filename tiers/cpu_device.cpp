#include <tierstream/io/start_thread.h>
#include <tierstream/tiers/cpu_device.h>
#include <tierstream/tiers/host_memory.h>
#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/memory_room.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

namespace tierstream {
namespace {

using Clock = std::chrono::steady_clock;

/// What an event stands for. Shared with the queues that the event was recorded on, which may outlive it.
/// Recording anew starts the next round; the end of an earlier round then says nothing.
class Point {
 public:
  std::uint64_t begin_round() {
    const std::lock_guard lock(mutex_);
    return ++begun_;
  }

  void finish_round(std::uint64_t round) {
    {
      const std::lock_guard lock(mutex_);
      if (round != begun_) return;
      finished_ = round;
      finished_at_ = Clock::now();
    }
    changed_.notify_all();
  }

  bool done() const {
    const std::lock_guard lock(mutex_);
    return finished_ == begun_;
  }

  Clock::time_point wait() const {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finished_ == begun_; });
    return finished_at_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::uint64_t begun_ = 0;
  std::uint64_t finished_ = 0;
  Clock::time_point finished_at_;
};

class CpuEvent final : public Event {
 public:
  bool done() const override { return point_->done(); }
  void record(Stream) override { point_->finish_round(point_->begin_round()); }
  void make_wait(Stream) const override { point_->wait(); }
  std::chrono::nanoseconds elapsed_since(const Event& begin) const override {
    return point_->wait() - static_cast<const CpuEvent&>(begin).point_->wait();
  }

  const std::shared_ptr<Point>& point() const { return point_; }

 private:
  std::shared_ptr<Point> point_ = std::make_shared<Point>();
};

class CpuCopyQueue final : public CopyQueue {
 public:
  explicit CpuCopyQueue(std::function<void()> on_progress)
      : on_progress_(std::move(on_progress)),
        thread_(start_thread("copies", [this](const std::stop_token& stop) { work(stop); })) {
    const std::lock_guard lock(mutex_);
    queued_.reserve(kExpectedTasks);
  }

  void copy(std::byte* destination, const std::byte* source, std::size_t bytes) override {
    push({.destination = destination, .source = source, .bytes = bytes});
  }

  void record(Event& event) override {
    const auto& point = static_cast<CpuEvent&>(event).point();
    push({.point = point, .round = point->begin_round()});
  }

  bool notifies() const override { return on_progress_ != nullptr; }

 private:
  /// More under way than this make the vectors grow, once.
  static constexpr std::size_t kExpectedTasks = 1024;

  /// A copy, or the end of a point's round.
  struct Task {
    std::byte* destination = nullptr;
    const std::byte* source = nullptr;
    std::size_t bytes = 0;
    std::shared_ptr<Point> point = nullptr;
    std::uint64_t round = 0;
  };

  void push(Task task) {
    {
      const std::lock_guard lock(mutex_);
      queued_.push_back(std::move(task));
    }
    changed_.notify_one();
  }

  /// The two vectors take turns and keep their capacity: a steady pass allocates nothing.
  void work(const std::stop_token& stop) {
    std::vector<Task> tasks;
    tasks.reserve(kExpectedTasks);
    std::unique_lock lock(mutex_);
    while (changed_.wait(lock, stop, [this] { return !queued_.empty(); })) {
      tasks.swap(queued_);
      lock.unlock();
      for (const Task& task : tasks) run(task);
      tasks.clear();
      lock.lock();
    }
  }

  void run(const Task& task) {
    if (task.bytes > 0) std::memcpy(task.destination, task.source, task.bytes);
    if (task.point == nullptr) return;
    task.point->finish_round(task.round);
    if (on_progress_) on_progress_();
  }

  const std::function<void()> on_progress_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<Task> queued_;
  std::jthread thread_;  // last: it uses the other members, and its end finishes what is queued
};

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const CpuDeviceOptions& options)
      : traits_{.name = "cpu",
                .reads_land = options.reads_land,
                .is_host = true,
                .memory_alignment = kSlotAlignment,
                .allocation_bytes = kSlotAlignment} {}

  const DeviceTraits& traits() const override { return traits_; }

  /// Untouched: the first layer need not wait until the last slot has its pages.
  DeviceMemory allocate(std::size_t bytes) override {
    return {*this, HostMemory(bytes, HostMemory::FirstTouch::kLater).release(), bytes};
  }

  MemoryRoom memory_room() override { return host_memory_room(); }

  void populate(std::span<std::byte> memory) noexcept override { HostMemory::populate(memory); }

  HostRegistration register_host(std::span<std::byte> memory, std::string&, HostAccess) override {
    return {*this, memory};
  }

  std::unique_ptr<Event> make_event() override { return std::make_unique<CpuEvent>(); }
  std::unique_ptr<Event> make_timed_event() override { return make_event(); }

  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()> on_progress) override {
    return std::make_unique<CpuCopyQueue>(std::move(on_progress));
  }

  void download(std::span<std::byte> destination, const std::byte* source, Stream) override {
    if (!destination.empty()) std::memcpy(destination.data(), source, destination.size());
  }

  void fill(std::span<std::byte> memory, std::byte value, Stream) override {
    if (!memory.empty()) std::memset(memory.data(), std::to_integer<int>(value), memory.size());
  }

 private:
  void free_memory(std::byte* data, std::size_t bytes) noexcept override { HostMemory::adopt(data, bytes); }
  void unregister_host(std::span<std::byte>) noexcept override {}

  const DeviceTraits traits_;
};

}  // namespace

std::shared_ptr<Device> make_cpu_device(const CpuDeviceOptions& options) {
  return std::make_shared<CpuDevice>(options);
}

}  // namespace tierstream
