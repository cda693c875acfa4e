#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>
#include <tierstream/tiers/host_memory.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "small_model.h"
#include "support/byte_units.h"
#include "support/meant_leaks.h"
#include "support/test_files.h"
#include "support/thrown.h"
#include "tools/page_cache.h"
#include "trace_events.h"

namespace tierstream {
namespace {

using ::testing::Each;
using ::testing::Gt;
using ::testing::HasSubstr;

/// The model in a file of the file system, of which pages can be kept. Through the ring and with reads that
/// land.
class ResidencyTest : public ::testing::TestWithParam<bool> {
 protected:
  ResidencyTest() {
    // The file was just written: other ways of reading would find some of it in the page cache.
    model_.table.open_storage = [] { return make_file_backend({.cache = CacheUse::kBuffered}); };
    const std::unique_ptr<StorageBackend> storage = model_.table.open_storage();
    model_.table.files = {{path_, storage->info(storage->open(path_))}};
  }

  Streamer make(std::uint64_t gpu_bytes, std::uint64_t page_cache_bytes, std::shared_ptr<Trace> trace = {}) {
    return {model_.table,
            {.device = make_cpu_device({.reads_land = GetParam()}),
             .budget = {.gpu = gpu_bytes, .pinned = 8 * kMiB, .page_cache = page_cache_bytes},
             .warn = {},
             .trace = std::move(trace)}};
  }
  /// One pass, all bytes compared.
  TierBytes walk(Streamer& streamer) {
    for (const Lease& layer : streamer.pass()) EXPECT_TRUE(model_.has_right_bytes(layer)) << layer.index();
    return streamer.stats().last_pass.bytes;
  }
  std::uint64_t model_bytes() const { return kLayers * model_.layer_bytes(); }

  static constexpr std::size_t kLayers = 8;
  SmallModel model_{kLayers, kMiB, GetParam() ? 0u : 8u};
  const TemporaryDirectory directory_;
  const std::string path_ = directory_.write("model", model_.content_of("model"));
};
INSTANTIATE_TEST_SUITE_P(, ResidencyTest, ::testing::Bool(), name_of_mode);

TEST_P(ResidencyTest, WhatTheDeviceKeepsIsReadOnce) {
  // Three slots, the outside, and half of the layers' tensors.
  Streamer streamer = make(3 * 3 * kMiB + kMiB + model_bytes() / 2, 0);
  const Plan& plan = streamer.plan();
  EXPECT_GT(plan.resident_bytes, model_bytes() / 2 - kMiB);
  const TierBytes first = walk(streamer);
  EXPECT_GE(first.disk, model_bytes());
  EXPECT_EQ(first.gpu, 0u);
  for (int pass = 0; pass < 2; ++pass) {
    const TierBytes bytes = walk(streamer);
    EXPECT_EQ(bytes.disk, plan.disk_bytes);
    EXPECT_LT(bytes.disk, model_bytes() * 6 / 10);
    EXPECT_GE(bytes.gpu + bytes.disk, model_bytes());
  }
  EXPECT_TRUE(model_.has_right_bytes(streamer.outside("embedding")));
}

TEST_P(ResidencyTest, HalfOfTheModelInThePageCacheLeavesTheOtherHalfToTheDisk) {
  Streamer streamer = make(4 * 3 * kMiB, model_bytes() / 2);
  EXPECT_GT(streamer.plan().used.page_cache, model_bytes() / 2 - kChunkBytes);
  const TierBytes first = walk(streamer);
  EXPECT_GE(first.disk + first.page_cache, model_bytes());
  EXPECT_LE(first.disk + first.page_cache, model_bytes() + 2 * kChunkBytes + kLayers * 3 * 4096) << "once";
  for (int pass = 0; pass < 2; ++pass) {
    const TierBytes bytes = walk(streamer);
    EXPECT_LE(bytes.disk, streamer.plan().disk_bytes) << "a layer may still be in its slot";
    EXPECT_LE(bytes.disk, model_bytes() / 2 + kChunkBytes + kLayers * 3 * 4096);
    EXPECT_GE(bytes.disk + bytes.page_cache + bytes.gpu, model_bytes());
  }
  EXPECT_LE(streamer.stats().peak_bytes.page_cache, model_bytes() / 2);
}

TEST_P(ResidencyTest, ATraceShowsTheReadsOfKeptPagesToo) {
  if (!try_make_cold(path_)) GTEST_SKIP() << "the file's pages cannot be dropped";
  const auto trace = std::make_shared<Trace>();
  Streamer streamer = make(4 * 3 * kMiB, model_bytes() / 2, trace);
  for (const Lease& layer : streamer.pass({.last = true})) EXPECT_TRUE(model_.has_right_bytes(layer));
  streamer.close();
  std::vector<std::uint64_t> read_bytes(kLayers + 1);
  for (const TraceEvent& read : of_kind(TraceEvent::Kind::kRead, trace->events())) {
    EXPECT_LT(read.begin, read.end);
    read_bytes[read.layer] += read.bytes;
  }
  read_bytes.pop_back();  // outside the layers
  EXPECT_THAT(read_bytes, Each(Gt(0u)));
  EXPECT_EQ(std::accumulate(read_bytes.begin(), read_bytes.end(), std::uint64_t{0}),
            streamer.stats().total.bytes.disk);
}

TEST_P(ResidencyTest, AllTensorsThatAreMappedAreUsedWhereTheyLie) {
  Streamer streamer = make(5 * 3 * kMiB, model_bytes() + 4 * kMiB);
  (void)walk(streamer);
  const TierBytes bytes = walk(streamer);
  EXPECT_EQ(bytes.disk, 0u);
  EXPECT_GE(bytes.page_cache + bytes.gpu, model_bytes());
  if (!GetParam()) return;  // off the cache line: copied
  EXPECT_EQ(streamer.plan().slots, 0u);
  const TensorView before = streamer.acquire(3).tensor(1);
  EXPECT_EQ(streamer.acquire(3).tensor(1).data, before.data);
  EXPECT_EQ(mapped_file_at(before.data), path_);
}

TEST_P(ResidencyTest, AFileThatIsWrittenToIsNoticedBeforeTheNextPass) {
  Streamer streamer = make(5 * 3 * kMiB, model_bytes() / 2);
  (void)walk(streamer);
  const auto modified = std::filesystem::last_write_time(path_);
  std::filesystem::last_write_time(path_, modified + std::chrono::seconds(1));
  expect_throws(Errc::kFileChanged, HasSubstr(path_), [&] { (void)streamer.pass(); });
}

TEST_P(ResidencyTest, LeasesInAnyOrderGetTheirBytesFromEveryTier) {
  Streamer streamer = make(3 * 3 * kMiB + kMiB + model_bytes() / 4, model_bytes() / 3);
  for (const std::size_t layer : {7u, 2u, 2u, 5u, 0u, 7u, 1u, 6u, 3u, 4u, 0u}) {
    EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(layer))) << layer;
  }
  streamer.close();
}

/// The CPU device without reads that land, but for what a test makes different.
class OtherDevice : public Device {
 public:
  const DeviceTraits& traits() const override { return traits_; }
  DeviceMemory allocate(std::size_t bytes) override { return {*this, HostMemory(bytes).release(), bytes}; }
  MemoryRoom memory_room() override { return cpu_->memory_room(); }
  HostRegistration register_host(std::span<std::byte> memory, std::string&, HostAccess) override {
    return {*this, memory};
  }
  std::unique_ptr<Event> make_event() override { return cpu_->make_event(); }
  std::unique_ptr<Event> make_timed_event() override { return cpu_->make_timed_event(); }
  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()> on_progress) override {
    return cpu_->make_copy_queue(std::move(on_progress));
  }
  void download(std::span<std::byte> destination, const std::byte* source, Stream stream) override {
    cpu_->download(destination, source, stream);
  }
  void fill(std::span<std::byte> memory, std::byte value, Stream stream) override {
    cpu_->fill(memory, value, stream);
  }

 protected:
  const std::shared_ptr<Device> cpu_ = make_cpu_device();
  DeviceTraits traits_ = [this] {
    DeviceTraits traits = cpu_->traits();
    traits.reads_land = false;
    return traits;
  }();

 private:
  void free_memory(std::byte* data, std::size_t bytes) noexcept override { HostMemory::adopt(data, bytes); }
  void unregister_host(std::span<std::byte>) noexcept override {}
};

/// As if its memory were another's: nothing is used in place, and file pages are not registered.
class FarDevice final : public OtherDevice {
 public:
  FarDevice() { traits_.is_host = false; }
  HostRegistration register_host(std::span<std::byte> memory, std::string& refusal,
                                 HostAccess access) override {
    if (access == HostAccess::kReadWrite) return {*this, memory};
    refusal = "not here";
    return {};
  }
};

/// Its copies end, until they get stuck. Makes one queue.
class StuckDevice final : public OtherDevice {
 public:
  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()> on_progress) override {
    auto queue = std::make_unique<Queue>(*this, std::move(on_progress));
    queue_ = queue.get();
    return queue;
  }
  /// The next copy does not end, nor do those after it.
  void get_stuck() { gets_stuck_ = true; }
  void wait_until_stuck() { is_stuck_.wait(false); }
  bool queue_is_there() const { return queue_ != nullptr; }
  /// Lets the copies go on, and ends the queue, which nobody else will.
  void end_left_behind() { delete queue_; }

 private:
  class Queue final : public CopyQueue {
   public:
    Queue(StuckDevice& device, std::function<void()> on_progress)
        : device_(device),
          stuck_(device.cpu_->make_event()),
          queue_(device.cpu_->make_copy_queue([this, on_progress = std::move(on_progress)] {
            going_on_.wait(false);
            on_progress();
          })) {}
    ~Queue() override {
      going_on_ = true;
      going_on_.notify_all();
      queue_.reset();
      device_.queue_ = nullptr;
    }
    void copy(std::byte* destination, const std::byte* source, std::size_t bytes) override {
      const bool gets_stuck = device_.gets_stuck_.exchange(false);
      if (gets_stuck) {
        going_on_ = false;
        queue_->record(*stuck_);  // whose notice does not return
      }
      queue_->copy(destination, source, bytes);
      if (gets_stuck) {
        device_.is_stuck_ = true;
        device_.is_stuck_.notify_all();
      }
    }
    void record(Event& event) override { queue_->record(event); }
    bool notifies() const override { return true; }

   private:
    StuckDevice& device_;
    std::atomic<bool> going_on_ = true;
    std::unique_ptr<Event> stuck_;
    std::unique_ptr<CopyQueue> queue_;
  };

  std::atomic<bool> gets_stuck_ = false;
  std::atomic<bool> is_stuck_ = false;
  Queue* queue_ = nullptr;
};

/// The model in a storage whose files have no pages to keep: on the CPU device, both ways, and on one whose
/// memory is another's.
class PinnedResidencyTest : public ::testing::TestWithParam<const char*> {
 protected:
  bool is_far() const { return GetParam() == std::string("Far"); }
  Streamer make(std::uint64_t kept_bytes) {
    const std::shared_ptr<Device> device =
        is_far() ? std::shared_ptr<Device>(std::make_shared<FarDevice>())
                 : make_cpu_device({.reads_land = GetParam() == std::string("Landing")});
    return {model_.table, {.device = device, .budget = budget_of(kept_bytes), .warn = {}}};
  }
  /// Three slots, the largest ring, and so much beyond it.
  Budget budget_of(std::uint64_t kept_bytes) const {
    return {.gpu = 4 * 3 * kMiB, .pinned = PlanOptions{}.max_ring_bytes + kept_bytes};
  }
  TierBytes walk(Streamer& streamer) {
    for (const Lease& layer : streamer.pass()) EXPECT_TRUE(model_.has_right_bytes(layer)) << layer.index();
    return streamer.stats().last_pass.bytes;
  }
  std::uint64_t model_bytes() const { return kLayers * model_.layer_bytes(); }

  static constexpr std::size_t kLayers = 8;
  SmallModel model_{kLayers, kMiB};
};
INSTANTIATE_TEST_SUITE_P(, PinnedResidencyTest, ::testing::Values("ThroughTheRing", "Landing", "Far"),
                         [](const auto& test) { return test.param; });

TEST_P(PinnedResidencyTest, WhatThePinnedBudgetHoldsBeyondTheRingIsReadOnce) {
  Streamer streamer = make(model_bytes() / 2);
  const Plan& plan = streamer.plan();
  EXPECT_GT(plan.kept.bytes(), model_bytes() / 2 - kChunkBytes);
  EXPECT_EQ(plan.used.pinned, plan.ring.bytes() + plan.kept.bytes());
  EXPECT_GE(walk(streamer).disk, model_bytes());
  for (int pass = 0; pass < 2; ++pass) {
    const TierBytes bytes = walk(streamer);
    EXPECT_LE(bytes.disk, plan.disk_bytes);
    EXPECT_LE(bytes.disk, model_bytes() / 2 + kMiB);
    EXPECT_GE(bytes.pinned, model_bytes() / 2 - kChunkBytes);
    EXPECT_EQ(bytes.page_cache, 0u);
    EXPECT_GE(bytes.disk + bytes.pinned + bytes.gpu, model_bytes());
  }
  EXPECT_LE(streamer.stats().peak_bytes.pinned, budget_of(model_bytes() / 2).pinned);
  streamer.close();
}

TEST_P(PinnedResidencyTest, AChangeOfTheBudgetReadsOnlyTheDifference) {
  Streamer streamer = make(model_bytes() / 4);
  (void)walk(streamer);
  std::uint64_t kept = streamer.plan().kept.bytes();
  for (const std::uint64_t next : {model_bytes() / 2, model_bytes() / 3, model_bytes() + 4 * kMiB}) {
    EXPECT_EQ(streamer.set_budget(budget_of(next)), Budget{});
    const TierBytes bytes = walk(streamer);
    const Plan& plan = streamer.plan();
    const std::uint64_t added = plan.kept.bytes() - std::min(plan.kept.bytes(), kept);
    // On the host, what is kept in place leaves room for other residents.
    EXPECT_LE(bytes.disk, plan.streamed_bytes + added + plan.resident_bytes) << next;
    kept = plan.kept.bytes();
  }
  EXPECT_EQ(walk(streamer).disk, 0u) << "all is kept";
  (void)streamer.park();
  streamer.resume();
  EXPECT_GE(walk(streamer).disk, model_bytes()) << "parking gives it back";
}

TEST_P(ResidencyTest, KeptPagesThatAreNotRegisteredTakeTheRing) {
  Streamer streamer(
      model_.table,
      {.device = std::make_shared<FarDevice>(),
       .budget = {.gpu = 4 * 3 * kMiB, .pinned = 8 * kMiB, .page_cache = model_bytes() + 4 * kMiB}});
  EXPECT_EQ(streamer.plan().disk_bytes, 0u);
  for (int pass = 0; pass < 3; ++pass) (void)walk(streamer);
  const PageCacheStatus status = streamer.page_cache_status();
  EXPECT_EQ(status.registered_bytes, 0u);
  EXPECT_EQ(status.registration_refusal, "not here");
  const TierBytes bytes = streamer.stats().last_pass.bytes;
  EXPECT_GE(bytes.disk + bytes.page_cache + bytes.gpu, model_bytes());
}

TEST_P(ResidencyTest, ACopyThatNeverEndsLeavesWhatLeasesUseWhereItIs) {
  const MeantLeaks leaks;
  const auto device = std::make_shared<StuckDevice>();
  std::optional<Lease> lease;
  {
    Streamer streamer(model_.table,
                      {.device = device,
                       .budget = {.gpu = 4 * 3 * kMiB, .pinned = 8 * kMiB, .page_cache = model_bytes() / 2},
                       .max_slots = 2,
                       .end_timeout = std::chrono::milliseconds{0},
                       .warn = [](std::string_view) {}});
    (void)walk(streamer);
    const Plan& plan = streamer.plan();
    const auto mapped = std::ranges::find_if(
        plan.homes, [](const auto& homes) { return std::ranges::count(homes, TensorHome::kMapped) != 0; });
    ASSERT_EQ(mapped != plan.homes.end(), GetParam()) << "off the cache line it is copied";
    lease.emplace(streamer.acquire(GetParam() ? static_cast<std::size_t>(mapped - plan.homes.begin()) : 0));
    std::vector<std::uint32_t> copied;
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      if (plan.needs_slot(layer) && layer != lease->index()) copied.push_back(layer);
    }
    ASSERT_GT(copied.size(), plan.slots) << "one at least is in no slot";
    std::optional<Lease> used(streamer.acquire(copied.front()));
    device->get_stuck();
    used.reset();  // in its slot comes a layer that is in none
    device->wait_until_stuck();
  }
  EXPECT_TRUE(model_.has_right_bytes(*lease));
  lease.reset();
  EXPECT_TRUE(device->queue_is_there()) << "its end would wait for the copy";
  device->end_left_behind();
}

}  // namespace
}  // namespace tierstream
