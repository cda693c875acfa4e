#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>
#include <tierstream/tiers/host_memory.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "small_model.h"
#include "support/forbid.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using ::testing::HasSubstr;

/// Every test runs with all bytes taking the ring, and with reads landing in the slots.
class StreamerTest : public ::testing::TestWithParam<bool> {
 protected:
  std::shared_ptr<Device> device() const { return make_cpu_device({.reads_land = GetParam()}); }

  Streamer make(const SmallModel& model, std::uint32_t slots) const {
    return Streamer(model.table,
                    {.device = device(), .budget = model.budget(slots), .max_slots = std::max(slots, 3u)});
  }
  // Odd sizes and places, and ones that can land.
  std::vector<SmallModel> models() const {
    std::vector<SmallModel> made;
    made.emplace_back(6, 40'000, 0);
    made.emplace_back(6, 64 * 700, 64);
    made.emplace_back(6, 33'333, 8);
    return made;
  }
};

INSTANTIATE_TEST_SUITE_P(, StreamerTest, ::testing::Bool(), name_of_mode);

TEST_P(StreamerTest, DeliversEveryByteAtEveryNumberOfSlots) {
  for (const SmallModel& model : models()) {
    for (std::uint32_t slots = 1; slots <= 7; ++slots) {
      Streamer streamer = make(model, slots);
      for (int pass = 0; pass < 3; ++pass) {
        std::size_t next = 0;
        for (Lease layer : streamer.pass()) {
          EXPECT_EQ(layer.index(), next++);
          EXPECT_TRUE(model.has_right_bytes(layer));
        }
        EXPECT_EQ(next, 6u);
      }
      EXPECT_TRUE(model.has_right_bytes(streamer.outside("embedding")));
    }
  }
}

TEST_P(StreamerTest, CountsTheBytesOfEachPassWhereTheyCameFrom) {
  const SmallModel model(6, 64 * 700);
  Streamer streamer = make(model, 2);
  for (int pass = 0; pass < 3; ++pass) {
    for (Lease layer : streamer.pass()) EXPECT_TRUE(model.has_right_bytes(layer));
    const PassStats stats = streamer.stats().last_pass;
    EXPECT_EQ(stats.layers, 6u);
    EXPECT_EQ(stats.bytes.disk, 6 * model.layer_bytes()) << "streaming really happened";
    EXPECT_EQ(stats.bytes.gpu, 0u);
    EXPECT_GT(stats.seconds, 0);
  }
  EXPECT_EQ(streamer.stats().passes, 3u);
}

TEST_P(StreamerTest, CountsWhatTheLinksMoved) {
  const bool lands = GetParam();
  const SmallModel model(6, 64 * 700);
  Streamer streamer = make(model, 2);
  for (const bool last : {false, true}) {
    for (Lease layer : streamer.pass({.last = last})) EXPECT_TRUE(model.has_right_bytes(layer));
  }
  const std::uint64_t outside_bytes = streamer.plan().outside.disk_bytes();
  (void)streamer.outside("embedding");
  streamer.close();
  const PassStats total = streamer.stats().total;
  EXPECT_EQ(total.links.disk.bytes, total.bytes.disk + total.unused_bytes + outside_bytes);
  EXPECT_GT(total.links.disk.busy_seconds, 0);
  const PassStats last = streamer.stats().last_pass;
  EXPECT_LE(last.links.disk.bytes, total.links.disk.bytes - 6 * model.layer_bytes())
      << "what the first pass brought does not count again";
  if (lands) {
    EXPECT_EQ(total.links.host_to_device.bytes, 0u);
    EXPECT_EQ(total.links.host_to_device.busy_seconds, 0);
  } else {
    EXPECT_EQ(total.links.host_to_device.bytes, 2 * 6 * model.layer_bytes() + 64 * 700);
  }  // how long copies took is not seen where all of them end before the loop looks
}

TEST_P(StreamerTest, WhatTheLinksDidOutlivesABudget) {
  const SmallModel model(6, 64 * 700);
  Streamer streamer = make(model, 2);
  for (Lease layer : streamer.pass()) EXPECT_TRUE(model.has_right_bytes(layer));
  streamer.park();
  const LinksWork before = streamer.stats().total.links;
  EXPECT_GE(before.disk.bytes, 6 * model.layer_bytes());
  const LinksWork parked = streamer.stats().total.links - before;
  EXPECT_EQ(parked.disk.busy_seconds, 0) << "nothing is under way";
  EXPECT_EQ(parked.host_to_device.busy_seconds, 0);
  streamer.resume();
  for (Lease layer : streamer.pass()) EXPECT_TRUE(model.has_right_bytes(layer));
  const LinksWork after = streamer.stats().total.links - before;
  EXPECT_GE(after.disk.bytes, 6 * model.layer_bytes());
  EXPECT_GT(after.disk.busy_seconds, 0);
  EXPECT_LE(streamer.stats().last_pass.links.disk.bytes, after.disk.bytes);
}

TEST_P(StreamerTest, MovesNothingTwiceWhenEveryLayerHasASlot) {
  const SmallModel model(4);
  Streamer streamer = make(model, 4);
  for (Lease layer : streamer.pass()) EXPECT_TRUE(model.has_right_bytes(layer));
  EXPECT_EQ(streamer.stats().last_pass.bytes.disk, 4 * model.layer_bytes());
  for (Lease layer : streamer.pass()) EXPECT_TRUE(model.has_right_bytes(layer));
  EXPECT_EQ(streamer.stats().last_pass.bytes.disk, 0u);
  EXPECT_EQ(streamer.stats().last_pass.bytes.gpu, 4 * model.layer_bytes());
}

TEST_P(StreamerTest, HoldsNoMoreThanItsBudgets) {
  const SmallModel model(6);
  const Budget budget = model.budget(2);
  Streamer streamer(model.table, {.device = device(), .budget = budget});
  for (Lease layer : streamer.pass()) EXPECT_TRUE(model.has_right_bytes(layer));
  EXPECT_LE(streamer.stats().peak_bytes.gpu, budget.gpu);
  EXPECT_LE(streamer.stats().peak_bytes.pinned, budget.pinned);
  EXPECT_GT(streamer.stats().peak_bytes.gpu, 0u);
}

TEST_P(StreamerTest, AcquiresInAnyOrderAndRepeats) {
  const SmallModel model(6);
  Streamer streamer = make(model, 2);
  for (const std::size_t layer : {3u, 3u, 0u, 5u, 4u, 4u, 1u, 5u}) {
    const Lease lease = streamer.acquire(layer);
    EXPECT_EQ(lease.index(), layer);
    EXPECT_TRUE(model.has_right_bytes(lease));
  }
}

TEST_P(StreamerTest, FollowsAScheduleWithRepeatsAndSkips) {
  const SmallModel model(6);
  Streamer streamer = make(model, 3);
  std::vector<std::size_t> seen;
  for (Lease layer : streamer.pass({.schedule = {5, 0, 0, 3}, .last = true, .stream = {}, .stop = {}})) {
    EXPECT_TRUE(model.has_right_bytes(layer));
    seen.push_back(layer.index());
  }
  EXPECT_EQ(seen, (std::vector<std::size_t>{5, 0, 0, 3}));
}

TEST_P(StreamerTest, APassLeftEarlyOrByAnExceptionLeavesNoLeaseBehind) {
  const SmallModel model(6);
  Streamer streamer = make(model, 2);
  try {
    for (Lease layer : streamer.pass()) {
      if (layer.index() == 2) throw 1;
    }
  } catch (int) {
  }
  EXPECT_EQ(streamer.stats().last_pass.layers, 3u);
  for (Lease layer : streamer.pass()) EXPECT_TRUE(model.has_right_bytes(layer));
  EXPECT_NO_THROW(streamer.close());
}

TEST_P(StreamerTest, APassBesideAnotherIsRefusedAndChangesNothing) {
  const SmallModel model(4);
  Streamer streamer = make(model, 2);
  {
    Pass pass = streamer.pass();
    expect_throws(Errc::kInvalidArgument, HasSubstr("a pass is under way"), [&] { (void)streamer.pass(); });
    const Pass moved = std::move(pass);
    expect_throws(Errc::kInvalidArgument, HasSubstr("a pass is under way"), [&] { (void)streamer.pass(); });
  }
  for (Lease layer : streamer.pass()) EXPECT_TRUE(model.has_right_bytes(layer));
  EXPECT_EQ(streamer.stats().passes, 2u);
}

TEST_P(StreamerTest, ALayerLeasedTwiceSharesItsSlot) {
  const SmallModel model(4);
  Streamer streamer = make(model, 1);
  const Lease first = streamer.acquire(2);
  const Lease second = streamer.acquire(2);
  EXPECT_EQ(first.slot(), second.slot());
  EXPECT_EQ(first["t1"].data, second["t1"].data);
}

TEST_P(StreamerTest, MoreLeasesThanSlotsAreAnErrorAndNotAWait) {
  const SmallModel model(4);
  Streamer streamer = make(model, 2);
  std::optional<Lease> first(streamer.acquire(0));
  const Lease second = streamer.acquire(1);
  expect_throws(Errc::kTooManyLeases, HasSubstr("all 2 are leased"), [&] { (void)streamer.acquire(2); });
  first.reset();
  EXPECT_TRUE(model.has_right_bytes(streamer.acquire(2)));
}

TEST_P(StreamerTest, ALeaseEndsOnceAnotherTakesItsPlace) {
  const SmallModel model(3);
  Streamer streamer = make(model, 2);
  Lease current = streamer.acquire(0);
  Lease next = streamer.acquire(1);
  current = std::move(next);
  EXPECT_EQ(current.index(), 1u);
  EXPECT_NO_THROW((void)streamer.acquire(2)) << "in the slot of the first";
}

TEST_P(StreamerTest, AStreamerEndsOnceAnotherTakesItsPlace) {
  const SmallModel model(3);
  const std::shared_ptr<Device> first_device = device();
  Streamer streamer(model.table, {.device = first_device, .budget = model.budget(2)});
  Streamer next = make(model, 2);
  streamer = std::move(next);
  EXPECT_EQ(first_device.use_count(), 1);
  EXPECT_TRUE(model.has_right_bytes(streamer.acquire(1)));
}

TEST_P(StreamerTest, StableSlotsGiveEachLayerTheSameAddressInEveryPass) {
  const SmallModel model(5);
  Streamer streamer(model.table,
                    {.device = device(), .budget = model.budget(2), .stable_slots = true, .warn = {}});
  std::vector<std::byte*> addresses(5);
  for (int pass = 0; pass < 4; ++pass) {
    for (Lease layer : streamer.pass()) {
      EXPECT_EQ(layer.slot(), layer.index() % 2);
      EXPECT_TRUE(model.has_right_bytes(layer));
      std::byte* address = layer["t0"].data;
      if (pass == 0) addresses[layer.index()] = address;
      EXPECT_EQ(address, addresses[layer.index()]);
    }
  }
}

TEST_P(StreamerTest, ALeaseMayOutliveTheStreamer) {
  const SmallModel model(3);
  std::optional<Lease> lease;
  {
    Streamer streamer = make(model, 2);
    lease.emplace(streamer.acquire(1));
  }
  EXPECT_TRUE(model.has_right_bytes(*lease));
}

TEST_P(StreamerTest, CloseIsRefusedWhileLeasesAreOutAndThenFinal) {
  const SmallModel model(3);
  Streamer streamer = make(model, 2);
  {
    const Lease lease = streamer.acquire(0);
    expect_throws(Errc::kLeasesOutstanding, HasSubstr("1 lease is out; end it before close()"),
                  [&] { streamer.close(); });
  }
  streamer.close();
  streamer.close();
  expect_throws(Errc::kClosed, HasSubstr("closed"), [&] { (void)streamer.acquire(0); });
  expect_throws(Errc::kClosed, HasSubstr("closed"), [&] { (void)streamer.outside("embedding"); });
  EXPECT_EQ(streamer.stats().total.layers, 1u) << "statistics stay";
}

TEST_P(StreamerTest, MayBeClosedWhileAPassIsAlive) {
  const SmallModel model(3);
  Streamer streamer = make(model, 2);
  Pass pass = streamer.pass();
  for (Lease layer : pass) EXPECT_TRUE(model.has_right_bytes(layer));
  EXPECT_NO_THROW(streamer.close());
}

TEST_P(StreamerTest, AStopIsSeenAlsoWhereTheLayerIsReady) {
  const SmallModel model(3);
  Streamer streamer = make(model, 3);
  (void)streamer.acquire(0);
  std::stop_source stop;
  stop.request_stop();
  expect_throws(Errc::kCancelled, HasSubstr("layer 0"),
                [&] { (void)streamer.acquire(0, {.stream = {}, .stop = stop.get_token(), .deadline = {}}); });
}

TEST_P(StreamerTest, RefusesRequestSizesThatDoNotDivideBlocks) {
  const SmallModel model(3);
  for (const std::uint64_t bytes : {0u, 1000u, 12'288u, 16u << 20}) {
    expect_throws(Errc::kInvalidArgument, HasSubstr("request_bytes"), [&] {
      Streamer(model.table, {.device = device(), .budget = model.budget(2), .request_bytes = bytes});
    });
  }
}

TEST_P(StreamerTest, PoisonsASlotAtTheEndOfItsLastLease) {
  const SmallModel model(6, 64 * 700);
  Streamer streamer(model.table, {.device = device(), .budget = model.budget(3), .poison = true, .warn = {}});
  ASSERT_EQ(streamer.plan().slots, 3u);
  std::vector<std::span<const std::byte>> kept;
  for (Lease layer : streamer.pass({.last = true})) {  // after which no slot is filled again
    EXPECT_TRUE(model.has_right_bytes(layer));
    kept.emplace_back(layer.tensor(1).data, layer.tensor(1).spec->bytes);
  }
  for (const auto bytes : kept) {
    EXPECT_EQ(std::ranges::count(bytes, kPoison), static_cast<std::ptrdiff_t>(bytes.size()));
  }
}

TEST_P(StreamerTest, LoadsALayerAnewWhoseSlotWasPoisoned) {
  const SmallModel model(6, 64 * 700);
  Streamer streamer(model.table, {.device = device(), .budget = model.budget(3), .poison = true, .warn = {}});
  for (int round = 0; round < 3; ++round) {
    const Lease layer = streamer.acquire(2);
    { const Lease again = streamer.acquire(2); }
    EXPECT_TRUE(model.has_right_bytes(layer)) << "of two leases one has ended";
  }
  const TierBytes bytes = streamer.stats().total.bytes;
  EXPECT_EQ(bytes.disk, 3 * model.layer_bytes());
  EXPECT_EQ(bytes.gpu, 3 * model.layer_bytes()) << "of the second leases";
}

TEST_P(StreamerTest, AThreadThatCannotBeStartedIsAnErrorOfTheConstructor) {
  const SmallModel model(3);
  const auto in_child = [&] {
    forbid_threads();
    expect_throws(Errc::kOutOfMemory, HasSubstr("cannot start a thread for "), [&] { make(model, 2); });
    std::_Exit(HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(in_child(), ::testing::ExitedWithCode(0), "");
}

/// A device of its own memory by the side of the CPU, with streams that can be told to be captured.
class CapturedDevice final : public Device {
 public:
  std::atomic<bool> captured = false;
  std::uint64_t room_bytes = 1u << 30;

  const DeviceTraits& traits() const override { return traits_; }
  DeviceMemory allocate(std::size_t bytes) override {
    return {*this, HostMemory(bytes, HostMemory::FirstTouch::kLater).release(), bytes};
  }
  MemoryRoom memory_room() override { return {room_bytes, "the test"}; }
  HostRegistration register_host(std::span<std::byte> memory, std::string&, HostAccess) override {
    return {*this, memory};
  }
  std::unique_ptr<Event> make_event() override { return inner_->make_event(); }
  std::unique_ptr<Event> make_timed_event() override { return inner_->make_timed_event(); }
  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()> on_progress) override {
    return inner_->make_copy_queue(std::move(on_progress));
  }
  void download(std::span<std::byte> destination, const std::byte* source, Stream stream) override {
    inner_->download(destination, source, stream);
  }
  void fill(std::span<std::byte> memory, std::byte value, Stream stream) override {
    inner_->fill(memory, value, stream);
  }
  void refuse_capture(Stream) const override {
    if (captured) throw Error(Errc::kStreamCapturing, "the stream is being captured");
  }

 private:
  void free_memory(std::byte* data, std::size_t bytes) noexcept override { HostMemory::adopt(data, bytes); }
  void unregister_host(std::span<std::byte>) noexcept override {}

  const DeviceTraits traits_{.name = "captured"};
  std::shared_ptr<Device> inner_ = make_cpu_device();
};

TEST(StreamerRoom, MoreThanTheDeviceHasIsRefusedBeforeItIsAllocated) {
  const SmallModel model(3);
  const auto device = std::make_shared<CapturedDevice>();
  device->room_bytes = 100'000;
  expect_throws(Errc::kOutOfMemory, HasSubstr("97.7 KiB (100000 bytes) left by the test"),
                [&] { Streamer(model.table, {.device = device, .budget = model.budget(2)}); });
}

TEST(StreamerRoom, MoreThanTheHostHasIsRefusedBeforeItIsAllocated) {
  LayerTable table;
  for (int i = 0; i < 2; ++i) {
    table.layers.push_back({.name = fmt::format("layers.{}", i),
                            .tensors = {{.name = "t",
                                         .dtype = DType::kU8,
                                         .shape = {std::int64_t{1} << 50},
                                         .bytes = std::uint64_t{1} << 50,
                                         .source = static_cast<const std::byte*>(nullptr)}}});
  }
  expect_throws(Errc::kOutOfMemory, HasSubstr("all tiers together: "), [&] {
    Streamer(table, {.budget = {.gpu = std::uint64_t{1} << 60, .pinned = 0, .page_cache = 0}});
  });
}

TEST(StreamerInACapture, RefusesToAcquireAndRelease) {
  const SmallModel model(3);
  const auto device = std::make_shared<CapturedDevice>();
  Streamer streamer(model.table, {.device = device, .budget = model.budget(2)});
  Lease lease = streamer.acquire(0);
  device->captured = true;
  expect_throws(Errc::kStreamCapturing, HasSubstr("captured"), [&] { lease.release({}); });
  expect_throws(Errc::kStreamCapturing, HasSubstr("captured"), [&] { (void)streamer.acquire(1); });
  device->captured = false;
  EXPECT_TRUE(model.has_right_bytes(lease));
  lease.release({});
  EXPECT_TRUE(model.has_right_bytes(streamer.acquire(1)));
}

TEST(StreamerInACapture, ALeaseThatEndsThereFailsTheStreamerWhichCanStillBeClosed) {
  const SmallModel model(3);
  const auto device = std::make_shared<CapturedDevice>();
  Streamer streamer(model.table, {.device = device, .budget = model.budget(2)});
  {
    const Lease lease = streamer.acquire(0);
    device->captured = true;
  }
  device->captured = false;
  expect_throws(Errc::kStreamCapturing, HasSubstr("captured"), [&] { (void)streamer.acquire(1); });
  EXPECT_NO_THROW(streamer.close());
}

TEST_P(StreamerTest, NamesWhatItDoesNotHave) {
  const SmallModel model(3);
  Streamer streamer = make(model, 2);
  expect_throws(Errc::kInvalidArgument, HasSubstr("there are 0 to 2"), [&] { (void)streamer.acquire(3); });
  expect_throws(Errc::kInvalidArgument, HasSubstr("there are 3"),
                [&] { (void)streamer.acquire(0).tensor(3); });
  expect_throws(Errc::kInvalidArgument, HasSubstr("the pass has 3"),
                [&] { (void)streamer.pass().acquire(3); });
  expect_throws(Errc::kTensorMissing, HasSubstr("\"t0\", \"t1\", \"t2\""),
                [&] { (void)streamer.acquire(0)["t9"]; });
  expect_throws(Errc::kTensorMissing, HasSubstr("\"embedding\""), [&] { (void)streamer.outside("t9"); });
}

TEST_P(StreamerTest, WeightsInMemoryNeedNoStorage) {
  SmallModel model(3);
  for (Layer* layer :
       {&model.table.layers[0], &model.table.layers[1], &model.table.layers[2], &model.table.outside}) {
    for (TensorSpec& tensor : layer->tensors) {
      tensor.source = model.content_of("model").data() + std::get<FileExtent>(tensor.source).offset;
    }
  }
  model.table.files.clear();
  model.table.open_storage = nullptr;
  Streamer streamer = make(model, 1);
  for (Lease layer : streamer.pass()) {
    for (std::size_t i = 0; i < layer.size(); ++i) {
      const TensorView view = layer.tensor(i);
      EXPECT_EQ(std::memcmp(view.data, std::get<const std::byte*>(view.spec->source), view.spec->bytes), 0);
    }
  }
  EXPECT_EQ(streamer.stats().last_pass.bytes.pinned, 3 * model.layer_bytes());
  EXPECT_EQ(streamer.stats().last_pass.bytes.disk, 0u);
}

// --- Storage that misbehaves ---

/// A file in memory behind a gate: reads wait until it is opened, and fail in a range.
struct Gate {
  std::atomic<bool> open = true;
  std::atomic<bool> arrived = false;  ///< a read has
  std::atomic<std::uint64_t> fail_from = 0;
  std::atomic<std::uint64_t> fail_to = 0;

  void open_up() {
    open = true;
    open.notify_all();
  }
};

class GatedStorage final : public BlockingStorage {
 public:
  GatedStorage(const SmallModel& model, std::shared_ptr<Gate> gate)
      : content_(model.content_of("model")),
        version_(model.table.files[0].info.version),
        gate_(std::move(gate)) {}

  FileInfo open(FileId, const std::string&) override {
    return {.bytes = content_.size(), .version = version_};
  }
  std::int64_t read(FileId, std::uint64_t offset, std::span<std::byte> destination) noexcept override {
    gate_->arrived = true;
    gate_->arrived.notify_all();
    gate_->open.wait(false);
    if (offset < gate_->fail_to && gate_->fail_from < offset + destination.size()) return -EIO;
    const std::size_t bytes = std::min(destination.size(), content_.size() - offset);
    std::memcpy(destination.data(), content_.data() + offset, bytes);
    return static_cast<std::int64_t>(bytes);
  }
  StoragePath path() const override {
    return {.backend = "gated",
            .direct = false,
            .files_registered = false,
            .buffers_registered = false,
            .fallbacks = {}};
  }

 private:
  const std::vector<std::byte> content_;
  const FileVersion version_;
  std::shared_ptr<Gate> gate_;
};

class GatedTest : public StreamerTest {
 protected:
  GatedTest() {
    model_.table.open_storage = [this] {
      auto storage = make_threaded_backend(std::make_unique<GatedStorage>(model_, gate_), {.threads = 2});
      opened_ = storage.get();
      return storage;
    };
  }
  /// With a read under way that does not end, and no patience.
  Streamer make_hung(std::string& warning) {
    gate_->open = false;
    Streamer streamer(model_.table, {.device = device(),
                                     .budget = model_.budget(2),
                                     .end_timeout = std::chrono::milliseconds{0},
                                     .warn = [&warning](std::string_view line) { warning = line; }});
    gate_->arrived.wait(false);
    return streamer;
  }
  /// Lets the reads go on, into memory that is still there, and ends the storage, which nobody else will.
  void end_left_behind() {
    gate_->open_up();
    delete opened_;
  }

  StorageBackend* opened_ = nullptr;
  SmallModel model_{4, 64 * 700};
  std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();
};

INSTANTIATE_TEST_SUITE_P(, GatedTest, ::testing::Bool(), name_of_mode);

TEST_P(GatedTest, AReadErrorSurfacesAtTheAcquireOfItsLayerAndTheNextAcquireTriesAgain) {
  const auto& bad = std::get<FileExtent>(model_.table.layers[2].tensors[1].source);
  gate_->fail_from = bad.offset + 100;
  gate_->fail_to = bad.offset + 101;
  Streamer streamer(model_.table,
                    {.device = device(), .budget = model_.budget(2), .request_bytes = 16 << 10, .warn = {}});
  EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(0)));
  EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(1)));
  expect_throws(Errc::kReadFailed,
                ::testing::AllOf(HasSubstr("model: "), HasSubstr("\"layers.2."), HasSubstr("at byte ")),
                [&] { (void)streamer.acquire(2); });
  EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(3)));
  gate_->fail_to = 0;
  EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(2)));
}

TEST_P(GatedTest, AWaitEndsAtItsDeadlineOrWhenItIsStopped) {
  gate_->open = false;
  Streamer streamer(model_.table, {.device = device(), .budget = model_.budget(2)});
  const auto past = std::chrono::steady_clock::time_point{};
  expect_throws(Errc::kTimedOut, HasSubstr("layer 0"),
                [&] { (void)streamer.acquire(0, {.stream = {}, .stop = {}, .deadline = past}); });
  std::stop_source source;
  std::jthread stopper([&] { source.request_stop(); });
  expect_throws(Errc::kCancelled, HasSubstr("layer 1"), [&] {
    (void)streamer.acquire(1, {.stream = {}, .stop = source.get_token(), .deadline = {}});
  });
  gate_->open_up();
  EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(1)));
}

TEST_P(GatedTest, AReadThatNeverEndsKeepsItsMemoryAndTheEndSaysSo) {
  std::string warning;
  { Streamer streamer = make_hung(warning); }
  EXPECT_THAT(warning, HasSubstr("left to leak"));
  end_left_behind();
}

TEST_P(GatedTest, CloseSurvivesAReadThatNeverEnds) {
  std::string warning;
  {
    Streamer streamer = make_hung(warning);
    streamer.close();
  }
  EXPECT_THAT(warning, HasSubstr("left to leak"));
  end_left_behind();
}

TEST_P(GatedTest, AReadThatNeverEndsFailsAChangeOfTheBudgetAndAllThatFollows) {
  std::string warning;
  {
    Streamer streamer = make_hung(warning);
    expect_throws(Errc::kInternal, HasSubstr("did not end"), [&] { streamer.set_budget(model_.budget(3)); });
    expect_throws(Errc::kInternal, HasSubstr("did not end"), [&] { (void)streamer.acquire(1); });
    streamer.close();
  }
  end_left_behind();
}

TEST_P(GatedTest, AFileThatChangedSinceTheTableWasMadeIsRefused) {
  model_.table.files[0].info.bytes += 1;
  expect_throws(Errc::kFileChanged, HasSubstr("model: "),
                [&] { Streamer(model_.table, {.device = device(), .budget = model_.budget(2)}); });
}

TEST_P(GatedTest, ABudgetTooSmallFailsBeforeAnythingIsOpened) {
  bool opened = false;
  model_.table.open_storage = [&]() -> std::unique_ptr<StorageBackend> {
    opened = true;
    return nullptr;
  };
  expect_throws(Errc::kBudgetTooSmall, HasSubstr("gpu needs at least"), [&] {
    Streamer(model_.table, {.device = device(), .budget = {.gpu = 1, .pinned = 4u << 20}});
  });
  EXPECT_FALSE(opened);
}

}  // namespace
}  // namespace tierstream
