// The thin threaded shell around the staging loop, which the simulation never sees. Meant for
// ThreadSanitizer.

#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>

#include <atomic>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "clock.h"
#include "hand_off.h"
#include "small_model.h"

namespace tierstream {
namespace {

class StreamerThreadsTest : public ::testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(, StreamerThreadsTest, ::testing::Bool(), name_of_mode);

/// Four callers, who lease and look at the bytes.
void lease_by_many_threads(const StreamerOptions& options, const SmallModel& model) {
  Streamer streamer(model.table, options);
  std::atomic<int> wrong = 0;
  std::atomic<int> right = 0;
  {
    std::vector<std::jthread> callers;
    for (unsigned seed = 0; seed < 4; ++seed) {
      callers.emplace_back([&, seed] {
        std::mt19937 random(seed);
        for (int i = 0; i < 300; ++i) {
          const Lease lease = streamer.acquire(random() % 8);  // one each: there are slots for all
          model.has_right_bytes(lease) ? ++right : ++wrong;
          if (i % 50 == 0) (void)streamer.stats();
          if (i % 70 == 0 && !model.has_right_bytes(streamer.outside("embedding"))) ++wrong;
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(right, 1200);
}

TEST_P(StreamerThreadsTest, ManyThreadsLeaseInAnyOrderAndSeeTheRightBytes) {
  const SmallModel model(8, 64 * 100);
  StreamerOptions options{
      .device = make_cpu_device({.reads_land = GetParam()}), .budget = model.budget(4), .max_slots = 4};
  lease_by_many_threads(options, model);
  options.poison = true;
  lease_by_many_threads(options, model);
}

TEST(HandOffThreads, AWaitThatAnotherCallersLeaseMakesHopelessEnds) {
  // One slot and no loop: this test says when what happens.
  const std::shared_ptr<Device> device = make_cpu_device();
  TierBudget budget("gpu", 4096);
  SlotArena slots(*device, budget, 4096, 1);
  const std::unique_ptr<Event> ready = device->make_event();
  const SteadyClock clock;
  HandOff hand_off(std::vector<std::uint8_t>(6, 1), {.slots = 1, .stable = false}, slots, clock, [] {});
  hand_off.publish(0, 0, *ready, {});

  std::optional<Errc> ended;
  std::jthread waiting([&] {
    try {
      (void)hand_off.acquire(5, {}, {});
    } catch (const Error& error) {
      ended = error.errc();
    }
  });
  std::vector<std::uint32_t> wanted;
  while (!hand_off.begin_round(wanted, StallCause::kSlot).someone_waits) std::this_thread::yield();
  ASSERT_TRUE(hand_off.try_acquire(0));
  waiting.join();
  EXPECT_EQ(ended, Errc::kTooManyLeases);
}

TEST_P(StreamerThreadsTest, AStreamerDestroyedAtAnyMomentEndsCleanly) {
  const SmallModel model(8, 64 * 100);
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    Streamer streamer(model.table, {.device = make_cpu_device({.reads_land = GetParam()}),
                                    .budget = model.budget(1 + random() % 8)});
    for (std::size_t i = 0, count = random() % 12; i < count; ++i) {
      EXPECT_TRUE(model.has_right_bytes(streamer.acquire(i % 8)));
    }
  }
}

TEST_P(StreamerThreadsTest, LeasesEndOnAnotherThreadThanTheyBegan) {
  const SmallModel model(8, 64 * 100);
  Streamer streamer(model.table,
                    {.device = make_cpu_device({.reads_land = GetParam()}), .budget = model.budget(2)});
  for (int pass = 0; pass < 20; ++pass) {
    for (Lease layer : streamer.pass()) {
      std::jthread([&model, held = std::move(layer)] { EXPECT_TRUE(model.has_right_bytes(held)); });
    }
  }
}

TEST_P(StreamerThreadsTest, StoppingFromAnotherThreadEndsAPassAtOnce) {
  const SmallModel model(8, 64 * 100);
  Streamer streamer(model.table,
                    {.device = make_cpu_device({.reads_land = GetParam()}), .budget = model.budget(1)});
  std::stop_source source;
  std::jthread stopper;
  bool cancelled = false;
  try {
    for (;;) {
      for (Lease layer :
           streamer.pass({.schedule = {}, .last = false, .stream = {}, .stop = source.get_token()})) {
        if (!stopper.joinable()) stopper = std::jthread([&] { source.request_stop(); });
      }
    }
  } catch (const Error& error) {
    cancelled = error.errc() == Errc::kCancelled;
  }
  EXPECT_TRUE(cancelled);
}

}  // namespace
}  // namespace tierstream
