#include <gtest/gtest.h>
#include <tierstream/tiers/cpu_device.h>

#include <array>
#include <semaphore>

#include "support/device_contract.h"

namespace tierstream::testing {

INSTANTIATE_TEST_SUITE_P(
    Cpu, DeviceContract,
    ::testing::Values(DeviceUnderTest{"ReadsLand",
                                      [](std::string&) { return make_cpu_device({.reads_land = true}); }},
                      DeviceUnderTest{"AllBytesTakeTheRing",
                                      [](std::string&) { return make_cpu_device({.reads_land = false}); }}),
    [](const auto& tested) { return tested.param.name; });

namespace {

/// A queue whose thread stands still between `stop` and `go_on`.
class GatedQueue {
 public:
  explicit GatedQueue(Device& device)
      : queue_(device.make_copy_queue([this] {
          stopped_.release();
          gate_.acquire();
        })),
        marker_(device.make_event()) {}
  ~GatedQueue() { gate_.release(1000); }

  void stop() {
    queue_->record(*marker_);
    stopped_.acquire();
  }
  void go_on() { gate_.release(1000); }
  CopyQueue* operator->() { return queue_.get(); }

 private:
  std::counting_semaphore<> stopped_{0};
  std::counting_semaphore<> gate_{0};
  std::unique_ptr<CopyQueue> queue_;
  std::unique_ptr<Event> marker_;
};

TEST(CpuDevice, SaysWhetherReadsLand) {
  EXPECT_TRUE(make_cpu_device({.reads_land = true})->traits().reads_land);
  EXPECT_FALSE(make_cpu_device({.reads_land = false})->traits().reads_land);
  EXPECT_EQ(make_cpu_device()->traits().name, "cpu");
}

TEST(CpuDevice, AllocatesForDirectReads) {
  EXPECT_EQ(make_cpu_device()->traits().memory_alignment % 4096, 0u);
}

TEST(CpuDevice, WorkOfACallersStreamIsDoneAtOnce) {
  const auto device = make_cpu_device();
  const auto event = device->make_event();
  event->record(Stream{});
  EXPECT_TRUE(event->done());
}

TEST(CpuDevice, AnEventIsNotDoneBeforeItsCopies) {
  const auto device = make_cpu_device();
  const std::array source = {std::byte{1}};
  std::array target = {std::byte{0}};
  const auto event = device->make_event();
  GatedQueue queue(*device);
  queue.stop();
  queue->copy(target.data(), source.data(), 1);
  queue->record(*event);
  EXPECT_FALSE(event->done());
  EXPECT_EQ(target[0], std::byte{0});
  queue.go_on();
  event->make_wait(Stream{});
  EXPECT_TRUE(event->done());
  EXPECT_EQ(target[0], std::byte{1});
}

TEST(CpuDevice, AnEventRecordedAnewDoesNotWaitForItsEarlierQueue) {
  const auto device = make_cpu_device();
  const auto event = device->make_event();
  GatedQueue queue(*device);
  queue.stop();
  queue->record(*event);
  EXPECT_FALSE(event->done());
  event->record(Stream{});
  EXPECT_TRUE(event->done());
}

TEST(CpuDevice, TheEndOfAnEarlierPointDoesNotMakeALaterOneDone) {
  const auto device = make_cpu_device();
  const auto event = device->make_event();
  GatedQueue slow(*device);
  slow.stop();
  auto fast = device->make_copy_queue({});
  fast->record(*event);
  slow->record(*event);
  fast.reset();  // the first point has ended
  EXPECT_FALSE(event->done());
  slow.go_on();
  event->make_wait(Stream{});
  EXPECT_TRUE(event->done());
}

}  // namespace
}  // namespace tierstream::testing
