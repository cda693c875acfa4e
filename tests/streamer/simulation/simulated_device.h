#pragma once

#include <tierstream/io/error.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/layer_layout.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace tierstream::simulation {

/// Lies that a device can tell, to see whether the simulation notices.
struct DeviceLies {
  bool copies_done_early = false;  ///< events of the copy queue count as done at once
  bool fences_done_early = false;  ///< events of the callers' streams count as done at once
  bool waits_ignored = false;      ///< streams do not wait for events
  bool fills_ignored = false;
};

/// A device whose work is done when the simulation gets round to it: every stream is a list of operations,
/// and `advance` carries out the next one of some stream. Copies really copy then, so that a source that
/// changed too early, or a destination used too early, shows as wrong bytes.
class SimulatedDevice final : public Device {
 public:
  SimulatedDevice(std::mt19937_64& random, DeviceTraits traits, bool notifies, DeviceLies lies)
      : random_(random),
        traits_(std::move(traits)),
        notifies_(notifies),
        lies_(lies),
        streams_(kStreams + 1) {}

  ~SimulatedDevice() override { free_for_good(); }

  static constexpr std::size_t kStreams = 3;  ///< of callers
  static Stream stream(std::size_t index) { return {reinterpret_cast<void*>(index + 1)}; }

  /// Queues work of a caller: `start` runs when the stream gets to it, `end` some time later.
  void compute(Stream stream, std::function<void()> start, std::function<void()> end) {
    queue_of(stream).push_back({.run = std::move(start)});
    queue_of(stream).push_back({.run = std::move(end)});
  }

  /// Carries out one operation of a stream chosen at random, if it does not wait.
  void advance() { advance(streams_[random_() % streams_.size()]); }
  bool idle() const {
    for (const auto& queue : streams_) {
      if (!queue.empty()) return false;
    }
    return true;
  }
  /// Bytes of copies that are queued and not done, of those from outside `memory`.
  std::uint64_t queued_copy_bytes(std::span<const std::byte> memory) const {
    std::uint64_t bytes = 0;
    for (const Operation& operation : streams_.back()) {
      const std::byte* const from = operation.copied.data();
      const bool inside = memory.data() <= from && from < memory.data() + memory.size();
      if (!inside) bytes += operation.copied.size();
    }
    return bytes;
  }
  /// Told of every copy's destination when it is queued.
  void watch(std::function<void(std::span<const std::byte>)> on_copy) { on_copy_ = std::move(on_copy); }
  /// From now on every copy throws.
  void break_down() { broken_ = true; }
  bool broken() const { return broken_; }

  const DeviceTraits& traits() const override { return traits_; }
  DeviceMemory allocate(std::size_t bytes) override {
    const std::size_t rounded = (bytes + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
    auto* data = static_cast<std::byte*>(std::aligned_alloc(kSlotAlignment, std::max(rounded, kMinimum)));
    if (data == nullptr) throw std::bad_alloc();
    std::memset(data, 0xA5, std::max(rounded, kMinimum));
    live_bytes_ += bytes;
    return {*this, data, bytes};
  }
  MemoryRoom memory_room() override { return {std::uint64_t{1} << 40, "the simulation"}; }
  std::uint64_t live_bytes() const { return live_bytes_; }
  HostRegistration register_host(std::span<std::byte> memory, std::string&, HostAccess) override {
    return {*this, memory};
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<SimulatedEvent>(*this); }
  std::unique_ptr<Event> make_timed_event() override { return make_event(); }
  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()> on_progress) override {
    if (notifies_) on_progress_ = std::move(on_progress);
    return std::make_unique<SimulatedCopies>(*this);
  }
  void download(std::span<std::byte> destination, const std::byte* source, Stream) override {
    std::memcpy(destination.data(), source, destination.size());
  }
  void fill(std::span<std::byte> memory, std::byte value, Stream stream) override {
    if (lies_.fills_ignored) return;
    queue_of(stream).push_back({.run = [=] { std::ranges::fill(memory, value); }});
  }

 private:
  static constexpr std::size_t kMinimum = kSlotAlignment;
  using Point = std::shared_ptr<bool>;  // true: reached. Shared by the event and the streams that wait for it

  struct Operation {
    std::function<void()> run = {};
    Point point = {};     // reached by this operation
    Point wait_for = {};  // this operation waits for it
    std::span<const std::byte> copied = {};
  };

  class SimulatedEvent final : public Event {
   public:
    explicit SimulatedEvent(SimulatedDevice& device) : device_(device) {}
    bool done() const override { return *point_ || counts_early_; }
    void record(Stream stream) override {
      record_in(device_.queue_of(stream), device_.lies_.fences_done_early);
    }
    void record_in(std::deque<Operation>& queue, bool counts_early) {
      counts_early_ = counts_early;
      point_ = std::make_shared<bool>(false);
      queue.push_back({.point = point_});
    }
    void make_wait(Stream stream) const override { device_.queue_of(stream).push_back({.wait_for = point_}); }
    std::chrono::nanoseconds elapsed_since(const Event&) const override { return {}; }

   private:
    SimulatedDevice& device_;
    Point point_ = std::make_shared<bool>(true);
    bool counts_early_ = false;
  };

  class SimulatedCopies final : public CopyQueue {
   public:
    explicit SimulatedCopies(SimulatedDevice& device) : device_(device) {}
    void copy(std::byte* destination, const std::byte* source, std::size_t bytes) override {
      if (device_.broken_) throw Error(Errc::kDeviceFailed, "the simulated device has failed");
      if (device_.on_copy_) device_.on_copy_({destination, bytes});
      device_.streams_.back().push_back(
          {.run = [destination, source, bytes] { std::memcpy(destination, source, bytes); },
           .copied = {source, bytes}});
    }
    void record(Event& event) override {
      std::deque<Operation>& copies = device_.streams_.back();
      static_cast<SimulatedEvent&>(event).record_in(copies, device_.lies_.copies_done_early);
      // Copies may end while the loop is in the middle of a step.
      while (device_.random_() % 3 == 0) device_.advance(copies);
    }
    bool notifies() const override { return device_.notifies_; }

   private:
    SimulatedDevice& device_;
  };

  /// Carries out the stream's next operation, unless it waits.
  void advance(std::deque<Operation>& queue) {
    if (queue.empty()) return;
    Operation& next = queue.front();
    if (next.wait_for && !*next.wait_for && !lies_.waits_ignored) return;
    const Operation operation = std::move(next);
    queue.pop_front();
    if (operation.run) operation.run();
    if (operation.point) *operation.point = true;
    if (&queue == &streams_.back() && operation.point && on_progress_) on_progress_();
    if (idle()) free_for_good();
  }

  std::deque<Operation>& queue_of(Stream stream) {
    return streams_[reinterpret_cast<std::uintptr_t>(stream.handle) - 1];
  }

  /// A device frees memory only after the work that is queued by then.
  void free_memory(std::byte* data, std::size_t bytes) noexcept override {
    live_bytes_ -= bytes;
    to_free_.push_back(data);
  }
  void free_for_good() noexcept {
    for (std::byte* data : to_free_) std::free(data);
    to_free_.clear();
  }
  void unregister_host(std::span<std::byte>) noexcept override {}

  std::mt19937_64& random_;
  std::uint64_t live_bytes_ = 0;
  std::vector<std::byte*> to_free_;
  const DeviceTraits traits_;
  const bool notifies_;
  const DeviceLies lies_;
  std::vector<std::deque<Operation>> streams_;  // the callers', then the copy queue
  std::function<void()> on_progress_;
  std::function<void(std::span<const std::byte>)> on_copy_;
  bool broken_ = false;
};

}  // namespace tierstream::simulation
