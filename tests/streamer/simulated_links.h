#pragma once

#include <tierstream/io/storage_backend.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/page_cache.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "clock.h"

namespace tierstream::testing {

/// Time that passes only where nobody has anything to do, and then jumps to the next event.
class SimulatedTime final : public Clock {
 public:
  using Moment = std::chrono::nanoseconds;

  Moment now() const override { return now_; }

  /// Something happens then.
  void expect(Moment event) { events_.push(event); }

  /// Passes until the next event, for `limit` at most.
  void wait(std::chrono::nanoseconds limit) {
    while (!events_.empty() && events_.top() <= now_) events_.pop();
    if (limit <= kLongestPoll) {
      now_ = events_.empty() ? now_ + limit : std::min(now_ + limit, events_.top());
    } else if (events_.empty()) {
      throw std::logic_error("the loop waits, and nothing is under way");
    } else {
      now_ = events_.top();
    }
  }

 private:
  /// Longer waits are for events.
  static constexpr std::chrono::nanoseconds kLongestPoll = std::chrono::seconds(1);

  Moment now_{0};
  std::priority_queue<Moment, std::vector<Moment>, std::greater<>> events_;
};

/// Moves bytes at a fixed rate, in the order in which they were given to it.
class Link {
 public:
  /// Borrows `time`.
  Link(SimulatedTime& time, double bytes_per_second) : time_(time), rate_(bytes_per_second) {}

  /// Returns when they will have been moved.
  SimulatedTime::Moment move(std::uint64_t bytes) {
    const auto took = std::llround(static_cast<double>(bytes) / rate_ * 1e9);
    free_ = std::max(free_, time_.now()) + std::chrono::nanoseconds(took);
    time_.expect(free_);
    return free_;
  }
  /// When all that it was given will have been moved.
  SimulatedTime::Moment idle_from() const { return free_; }

 private:
  SimulatedTime& time_;
  double rate_;
  SimulatedTime::Moment free_{0};
};

/// Reads take time and bring no byte. `collect` does not wait but says how long it was to: callers on the
/// same thread come first.
class LinkedStorage final : public StorageBackend {
 public:
  LinkedStorage(SimulatedTime& time, double bytes_per_second, FileInfo file)
      : StorageBackend({}), time_(time), disk_(time, bytes_per_second), file_(std::move(file)) {}

  /// Waits as long as the last `collect` was to, but for events.
  void wait() {
    if (wait_ > std::chrono::nanoseconds::zero()) time_.wait(std::exchange(wait_, {}));
  }

 private:
  struct Read {
    RawCompletion completion;
    SimulatedTime::Moment end;
  };

  FileInfo do_open(FileId, const std::string&) override { return file_; }
  void do_submit(std::span<const RawRead> reads) override {
    for (const RawRead& read : reads) {
      const std::size_t bytes = read.destination.size();
      under_way_.push_back({{read.id, static_cast<std::int64_t>(bytes)}, disk_.move(bytes)});
    }
  }
  std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds wait) override {
    std::size_t count = 0;
    for (; count < completions.size() && !under_way_.empty(); under_way_.pop_front()) {
      if (under_way_.front().end > time_.now()) break;
      completions[count++] = under_way_.front().completion;
    }
    wait_ = count == 0 ? wait : std::chrono::nanoseconds::zero();
    return count;
  }
  void do_wake() noexcept override { wait_ = std::chrono::nanoseconds::zero(); }
  StoragePath do_path() const override { return {.backend = "simulated"}; }

  SimulatedTime& time_;
  Link disk_;
  FileInfo file_;
  std::deque<Read> under_way_;
  std::chrono::nanoseconds wait_{0};
};

/// Copies take time and move no byte; its memory is addresses only. Streams of callers are done with their
/// work as soon as it is queued.
class LinkedDevice final : public Device {
 public:
  LinkedDevice(SimulatedTime& time, double bytes_per_second, DeviceTraits traits)
      : time_(time), link_(time, bytes_per_second), traits_(std::move(traits)) {}

  const DeviceTraits& traits() const override { return traits_; }
  DeviceMemory allocate(std::size_t bytes) override {
    return {*this, reinterpret_cast<std::byte*>(kSlotAlignment), bytes};
  }
  MemoryRoom memory_room() override { return {std::uint64_t{1} << 62, "nothing"}; }
  HostRegistration register_host(std::span<std::byte> memory, std::string&, HostAccess) override {
    return {*this, memory};
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<Point>(time_); }
  std::unique_ptr<Event> make_timed_event() override { return make_event(); }
  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()>) override {
    return std::make_unique<Copies>(link_);
  }
  void download(std::span<std::byte>, const std::byte*, Stream) override {
    throw std::logic_error("there is nothing to download");
  }
  void fill(std::span<std::byte>, std::byte, Stream) override {
    throw std::logic_error("there is nothing to fill");
  }

 private:
  class Point final : public Event {
   public:
    explicit Point(const SimulatedTime& time) : time_(time) {}
    bool done() const override { return at_ <= time_.now(); }
    void record(Stream) override { at_ = time_.now(); }
    void record(SimulatedTime::Moment at) { at_ = at; }
    void make_wait(Stream) const override {}
    std::chrono::nanoseconds elapsed_since(const Event& begin) const override {
      return at_ - static_cast<const Point&>(begin).at_;
    }

   private:
    const SimulatedTime& time_;
    SimulatedTime::Moment at_{0};
  };
  class Copies final : public CopyQueue {
   public:
    explicit Copies(Link& link) : link_(link) {}
    void copy(std::byte*, const std::byte*, std::size_t bytes) override { link_.move(bytes); }
    void record(Event& event) override { static_cast<Point&>(event).record(link_.idle_from()); }
    bool notifies() const override { return true; }  // time stops at the end of each copy

   private:
    Link& link_;
  };

  void free_memory(std::byte*, std::size_t) noexcept override {}
  void unregister_host(std::span<std::byte>) noexcept override {}

  SimulatedTime& time_;
  Link link_;
  const DeviceTraits traits_;
};

/// Pages that are there already, at addresses that nobody reads.
class WarmPages final : public PageCache {
 public:
  void begin() override {}
  State state(std::uint32_t) const noexcept override { return State::kReady; }
  void ask_for(std::uint32_t) override {}
  std::exception_ptr error(std::uint32_t) const override { return nullptr; }
  bool is_registered(std::uint32_t) const noexcept override { return true; }
  std::uint64_t take_read_bytes(std::uint32_t) noexcept override { return 0; }
  const std::byte* address(std::uint32_t, std::uint64_t offset) const noexcept override {
    return reinterpret_cast<const std::byte*>(kSlotAlignment + offset);
  }
  void split_at_edges(std::vector<MappedCopy>&) const override {}
  Budget reserved_bytes() const noexcept override { return {}; }
  void check_files() const override {}
  void find_lost() override {}
  PageCacheStatus status() const override { return {}; }
  void drop() noexcept override {}
};

}  // namespace tierstream::testing
