#pragma once

#include <tierstream/tiers/device.h>
#include <tierstream/tiers/host_memory.h>

#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>

namespace tierstream::testing {

/// A device whose streams get on when the test says so, and which counts what it has handed out.
class FakeDevice final : public Device {
 public:
  /// All work queued on `stream` so far is done.
  void finish(Stream stream) {
    Timeline& timeline = timelines_[stream.handle];
    timeline.finished = timeline.recorded;
  }
  /// Queues work on `stream` that `waits_for` can ask about.
  int queue(Stream stream) { return ++timelines_[stream.handle].recorded; }
  /// What is queued on `stream` from now on begins after that work of `other`.
  bool waits_for(Stream stream, Stream other, int work) {
    return timelines_[stream.handle].after[other.handle] >= work;
  }

  /// From now on host memory is not registered, for this reason.
  void refuse_registration(std::string reason) { registration_refusal_ = std::move(reason); }

  std::size_t allocated_bytes() const { return allocated_bytes_; }
  std::size_t registered_bytes() const { return registered_bytes_; }
  int events_made() const { return events_made_; }

  const DeviceTraits& traits() const override { return traits_; }

  DeviceMemory allocate(std::size_t bytes) override {
    allocated_bytes_ += bytes;
    return {*this, HostMemory(bytes).release(), bytes};
  }

  MemoryRoom memory_room() override { return {room_bytes_, "the test"}; }
  void set_room(std::uint64_t bytes) { room_bytes_ = bytes; }

  HostRegistration register_host(std::span<std::byte> memory, std::string& refusal, HostAccess) override {
    if (!registration_refusal_.empty()) {
      refusal = registration_refusal_;
      return {};
    }
    registered_bytes_ += memory.size();
    return {*this, memory};
  }

  std::unique_ptr<Event> make_event() override {
    ++events_made_;
    return std::make_unique<FakeEvent>(timelines_);
  }
  std::unique_ptr<Event> make_timed_event() override { return make_event(); }

  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()>) override {
    throw std::logic_error("FakeDevice has no copy queue");
  }

  void download(std::span<std::byte>, const std::byte*, Stream) override {
    throw std::logic_error("FakeDevice has nothing to download");
  }

  /// The bytes are set at once.
  void fill(std::span<std::byte> memory, std::byte value, Stream stream) override {
    std::ranges::fill(memory, value);
    queue(stream);
  }

 private:
  struct Timeline {
    int recorded = 0;
    int finished = 0;
    std::map<void*, int> after = {};  // of other streams, what its next work waits for
  };
  using Timelines = std::map<void*, Timeline>;

  class FakeEvent final : public Event {
   public:
    explicit FakeEvent(Timelines& timelines) : timelines_(timelines) {}
    bool done() const override { return point_ <= timelines_[stream_.handle].finished; }
    void record(Stream stream) override {
      stream_ = stream;
      Timeline& timeline = timelines_[stream.handle];
      point_ = ++timeline.recorded;
      after_ = timeline.after;
      after_[stream.handle] = point_;
    }
    void make_wait(Stream stream) const override {
      for (const auto& [other, point] : after_) {
        int& known = timelines_[stream.handle].after[other];
        known = std::max(known, point);
      }
    }
    std::chrono::nanoseconds elapsed_since(const Event&) const override { return {}; }

   private:
    Timelines& timelines_;
    Stream stream_;
    int point_ = 0;
    std::map<void*, int> after_;  // what it stands for, by stream
  };

  void free_memory(std::byte* data, std::size_t bytes) noexcept override {
    allocated_bytes_ -= bytes;
    HostMemory::adopt(data, bytes);
  }
  void unregister_host(std::span<std::byte> memory) noexcept override { registered_bytes_ -= memory.size(); }

  const DeviceTraits traits_ = {.name = "fake"};
  Timelines timelines_;
  std::string registration_refusal_;
  std::uint64_t room_bytes_ = std::uint64_t{1} << 40;
  std::size_t allocated_bytes_ = 0;
  std::size_t registered_bytes_ = 0;
  int events_made_ = 0;
};

}  // namespace tierstream::testing
