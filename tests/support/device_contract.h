#pragma once

#include <gtest/gtest.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/host_memory.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "support/byte_units.h"

/// What every device must do. A test program instantiates `DeviceContract` with each of its devices.
namespace tierstream::testing {

struct DeviceUnderTest {
  std::string name;
  /// Null: there is no such device here, and `reason` says why; its tests are skipped.
  std::function<std::shared_ptr<Device>(std::string& reason)> make;

  friend void PrintTo(const DeviceUnderTest& device, std::ostream* out) { *out << device.name; }
};

class DeviceContract : public ::testing::TestWithParam<DeviceUnderTest> {
 protected:
  void SetUp() override {
    std::string reason;
    device_ = GetParam().make(reason);
    if (device_ == nullptr) GTEST_SKIP() << reason;
  }

  /// Bytes that differ from place to place and from `seed` to `seed`.
  static HostMemory pattern(std::size_t bytes, unsigned seed) {
    HostMemory memory(bytes);
    std::uint32_t state = seed * 2654435761u + 1;
    for (std::byte& value : memory.span()) {
      state = state * 1664525u + 1013904223u;
      value = static_cast<std::byte>(state >> 24);
    }
    return memory;
  }

  static std::vector<std::byte> bytes_of(const HostMemory& memory) {
    return {memory.span().begin(), memory.span().end()};
  }

  std::vector<std::byte> downloaded(const DeviceMemory& memory) {
    std::vector<std::byte> bytes(memory.bytes());
    device_->download(bytes, memory.data(), Stream{});
    return bytes;
  }

  std::shared_ptr<Device> device_;
};

TEST_P(DeviceContract, AllocatesMemoryAtItsAlignment) {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{4096}, 3 * kMiB + 5}) {
    const DeviceMemory memory = device_->allocate(bytes);
    EXPECT_EQ(memory.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % device_->traits().memory_alignment, 0u);
  }
}

TEST_P(DeviceContract, AllocatesNothingForNoBytes) {
  const DeviceMemory memory = device_->allocate(0);
  EXPECT_EQ(memory.bytes(), 0u);
}

TEST_P(DeviceContract, CopiesArriveWhole) {
  const HostMemory source = pattern(5 * kMiB + 3, 1);
  const DeviceMemory memory = device_->allocate(source.span().size());
  const auto queue = device_->make_copy_queue({});
  const auto event = device_->make_event();
  std::size_t piece = 1;
  for (std::size_t at = 0; at < memory.bytes();) {
    const std::size_t bytes = std::min(piece, memory.bytes() - at);
    queue->copy(memory.data() + at, source.span().data() + at, bytes);
    at += bytes;
    piece = piece * 3 + 1;
  }
  queue->record(*event);
  event->make_wait(Stream{});
  EXPECT_EQ(downloaded(memory), bytes_of(source));
}

TEST_P(DeviceContract, CopiesArriveInTheOrderOfTheCalls) {
  const HostMemory first = pattern(kMiB, 1);
  const HostMemory last = pattern(kMiB, 2);
  const DeviceMemory memory = device_->allocate(kMiB);
  const auto queue = device_->make_copy_queue({});
  const auto event = device_->make_event();
  for (int round = 0; round < 20; ++round) {
    queue->copy(memory.data(), first.span().data(), kMiB);
    queue->copy(memory.data(), last.span().data(), kMiB);
  }
  queue->record(*event);
  event->make_wait(Stream{});
  EXPECT_EQ(downloaded(memory), bytes_of(last));
}

TEST_P(DeviceContract, ACopyOfNoBytesIsLegal) {
  const HostMemory source = pattern(1, 1);
  const DeviceMemory memory = device_->allocate(1);
  const auto queue = device_->make_copy_queue({});
  const auto event = device_->make_event();
  queue->copy(memory.data(), source.span().data(), 1);
  queue->copy(memory.data(), nullptr, 0);
  queue->record(*event);
  event->make_wait(Stream{});
  EXPECT_EQ(downloaded(memory), bytes_of(source));
}

TEST_P(DeviceContract, AnEventNeverRecordedIsDone) {
  const auto event = device_->make_event();
  EXPECT_TRUE(event->done());
  event->make_wait(Stream{});
}

TEST_P(DeviceContract, AnEventBecomesDoneOnceItsCopiesAre) {
  const HostMemory source = pattern(4 * kMiB, 1);
  const DeviceMemory memory = device_->allocate(4 * kMiB);
  const auto queue = device_->make_copy_queue({});
  const auto event = device_->make_event();
  queue->copy(memory.data(), source.span().data(), 4 * kMiB);
  queue->record(*event);
  while (!event->done()) std::this_thread::yield();
  EXPECT_EQ(downloaded(memory), bytes_of(source));
}

TEST_P(DeviceContract, AnEventRecordedOnAStreamBecomesDone) {
  const auto event = device_->make_event();
  event->record(Stream{});
  while (!event->done()) std::this_thread::yield();
  EXPECT_TRUE(event->done());
}

TEST_P(DeviceContract, AnEventRecordedAnewStandsForTheLaterPoint) {
  const HostMemory first = pattern(4 * kMiB, 1);
  const HostMemory last = pattern(4 * kMiB, 2);
  const DeviceMemory memory = device_->allocate(4 * kMiB);
  const auto queue = device_->make_copy_queue({});
  const auto event = device_->make_event();
  queue->copy(memory.data(), first.span().data(), 4 * kMiB);
  queue->record(*event);
  queue->copy(memory.data(), last.span().data(), 4 * kMiB);
  queue->record(*event);
  event->make_wait(Stream{});
  EXPECT_EQ(downloaded(memory), bytes_of(last));
}

TEST_P(DeviceContract, AnEventMayMoveFromQueueToQueue) {
  const HostMemory first = pattern(4 * kMiB, 1);
  const HostMemory last = pattern(4 * kMiB, 2);
  const DeviceMemory here = device_->allocate(4 * kMiB);
  const DeviceMemory there = device_->allocate(4 * kMiB);
  const auto one = device_->make_copy_queue({});
  const auto other = device_->make_copy_queue({});
  const auto event = device_->make_event();
  one->copy(here.data(), first.span().data(), 4 * kMiB);
  one->record(*event);
  other->copy(there.data(), last.span().data(), 4 * kMiB);
  other->record(*event);
  event->make_wait(Stream{});
  EXPECT_EQ(downloaded(there), bytes_of(last));
}

TEST_P(DeviceContract, AnEventMayEndBeforeItsCopies) {
  const HostMemory source = pattern(8 * kMiB, 1);
  const DeviceMemory memory = device_->allocate(8 * kMiB);
  auto queue = device_->make_copy_queue({});
  queue->copy(memory.data(), source.span().data(), 8 * kMiB);
  queue->record(*device_->make_event());
  queue.reset();
  EXPECT_EQ(downloaded(memory), bytes_of(source));
}

TEST_P(DeviceContract, AnEventMayOutliveItsQueue) {
  const HostMemory source = pattern(kMiB, 1);
  const DeviceMemory memory = device_->allocate(kMiB);
  const auto event = device_->make_event();
  auto queue = device_->make_copy_queue({});
  queue->copy(memory.data(), source.span().data(), kMiB);
  queue->record(*event);
  queue.reset();
  EXPECT_TRUE(event->done());
}

TEST_P(DeviceContract, EndingAQueueWaitsForItsCopies) {
  const HostMemory source = pattern(8 * kMiB, 1);
  const DeviceMemory memory = device_->allocate(8 * kMiB);
  auto queue = device_->make_copy_queue({});
  for (int round = 0; round < 10; ++round) queue->copy(memory.data(), source.span().data(), 8 * kMiB);
  queue.reset();
  EXPECT_EQ(downloaded(memory), bytes_of(source));
}

TEST_P(DeviceContract, QueuesServeTheirThreadsIndependently) {
  constexpr unsigned kQueues = 3;
  std::vector<HostMemory> sources(kQueues);
  std::vector<DeviceMemory> targets(kQueues);
  for (unsigned i = 0; i < kQueues; ++i) {
    sources[i] = pattern(kMiB, i);
    targets[i] = device_->allocate(kMiB);
  }
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < kQueues; ++i) {
    threads.emplace_back([this, source = sources[i].span(), target = targets[i].data()] {
      device_->enter_staging_thread();
      const auto queue = device_->make_copy_queue({});
      const auto event = device_->make_event();
      for (std::size_t at = 0; at < kMiB; at += 4096) {
        queue->copy(target + at, source.data() + at, 4096);
        queue->record(*event);
      }
      while (!event->done()) std::this_thread::yield();
    });
  }
  threads.clear();
  for (unsigned i = 0; i < kQueues; ++i) EXPECT_EQ(downloaded(targets[i]), bytes_of(sources[i]));
}

TEST_P(DeviceContract, AQueueThatNotifiesDoesSoAfterTheEventIsDone) {
  std::counting_semaphore<> progress(0);
  const HostMemory source = pattern(kMiB, 1);
  const DeviceMemory memory = device_->allocate(kMiB);
  const auto event = device_->make_event();
  const auto queue = device_->make_copy_queue([&progress] { progress.release(); });
  if (!queue->notifies()) GTEST_SKIP() << "the queues of this device are polled";
  for (int round = 0; round < 3; ++round) {
    queue->copy(memory.data(), source.span().data(), kMiB);
    queue->record(*event);
    progress.acquire();
    EXPECT_TRUE(event->done());
  }
}

TEST_P(DeviceContract, AQueueWithNoOneToNotifyIsPolled) {
  EXPECT_FALSE(device_->make_copy_queue({})->notifies());
}

TEST_P(DeviceContract, TimedEventsMeasureForward) {
  const HostMemory source = pattern(4 * kMiB, 1);
  const DeviceMemory memory = device_->allocate(4 * kMiB);
  const auto queue = device_->make_copy_queue({});
  const auto begin = device_->make_timed_event();
  const auto middle = device_->make_timed_event();
  const auto end = device_->make_timed_event();
  queue->record(*begin);
  queue->copy(memory.data(), source.span().data(), 4 * kMiB);
  queue->record(*middle);
  queue->copy(memory.data(), source.span().data(), 4 * kMiB);
  queue->record(*end);
  const auto half = middle->elapsed_since(*begin);
  EXPECT_GT(half.count(), 0);
  EXPECT_GT(end->elapsed_since(*begin), half);
}

TEST_P(DeviceContract, RegistersHostMemoryAgainOnceItIsUnregistered) {
  const HostMemory source = pattern(4 * kMiB, 1);
  const DeviceMemory memory = device_->allocate(4 * kMiB);
  for (int round = 0; round < 2; ++round) {
    std::string refusal;
    const HostRegistration registration = device_->register_host(source.span(), refusal);
    ASSERT_TRUE(registration) << refusal;
    EXPECT_EQ(refusal, "");
    const auto queue = device_->make_copy_queue({});
    const auto event = device_->make_event();
    queue->copy(memory.data(), source.span().data(), 4 * kMiB);
    queue->record(*event);
    event->make_wait(Stream{});
    EXPECT_EQ(downloaded(memory), bytes_of(source));
  }
}

TEST_P(DeviceContract, AFillSetsItsBytesAndNoOthers) {
  const HostMemory source = pattern(kMiB, 1);
  const DeviceMemory memory = device_->allocate(kMiB);
  const auto queue = device_->make_copy_queue({});
  const auto copied = device_->make_event();
  queue->copy(memory.data(), source.span().data(), kMiB);
  queue->record(*copied);
  copied->make_wait(Stream{});
  std::vector<std::byte> expected = bytes_of(source);
  std::fill(expected.begin() + 7, expected.end() - 300, kPoison);
  device_->fill({memory.data() + 7, kMiB - 307}, kPoison, Stream{});
  device_->fill({memory.data(), 0}, kPoison, Stream{});
  EXPECT_EQ(downloaded(memory), expected);
}

TEST_P(DeviceContract, AnEventRecordedAfterAFillIsDoneAfterIt) {
  const HostMemory source = pattern(8 * kMiB, 1);
  const DeviceMemory memory = device_->allocate(8 * kMiB);
  const auto queue = device_->make_copy_queue({});
  const auto filled = device_->make_event();
  const auto copied = device_->make_event();
  for (int round = 0; round < 5; ++round) {
    device_->fill({memory.data(), memory.bytes()}, kPoison, Stream{});
    filled->record(Stream{});
    while (!filled->done()) std::this_thread::yield();
    queue->copy(memory.data(), source.span().data(), 8 * kMiB);
    queue->record(*copied);
    copied->make_wait(Stream{});
    EXPECT_EQ(downloaded(memory), bytes_of(source));
  }
}

TEST_P(DeviceContract, AStreamThatIsNotCapturedIsNotRefused) {
  EXPECT_NO_THROW(device_->refuse_capture(Stream{}));
}

}  // namespace tierstream::testing
