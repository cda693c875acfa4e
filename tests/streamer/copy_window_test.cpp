#include "copy_window.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "simulation/simulated_device.h"

namespace tierstream {
namespace {

using simulation::SimulatedDevice;

class CountingClock final : public Clock {
 public:
  std::chrono::nanoseconds now() const override { return ++now_; }

 private:
  mutable std::chrono::nanoseconds now_{0};
};

class CopyWindowTest : public ::testing::Test {
 protected:
  void end_batch(std::uint32_t layer, std::uint64_t bytes) {
    window_.end_batch(
        *copies_,
        {.kind = TraceEvent::Kind::kCopy, .layer = layer, .begin = recorder_.now(), .bytes = bytes});
  }
  void finish_all() {
    while (!device_.idle()) device_.advance();
    window_.finish(recorder_);
  }

  std::mt19937_64 random_{1};
  SimulatedDevice device_{random_, {.name = "simulated"}, false, {}};
  std::unique_ptr<CopyQueue> copies_ = device_.make_copy_queue({});
  CountingClock clock_;
  Trace trace_;
  TraceRecorder recorder_{&trace_, clock_};
  CopyWindow window_{device_, {.batches = 2, .batch_bytes = kTensorAlignment}};
};

TEST_F(CopyWindowTest, HasRoomUntilAllItsBatchesAreUnderWay) {
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(window_.empty());
    end_batch(0, 256);
    EXPECT_FALSE(window_.empty());
    EXPECT_TRUE(window_.has_room());
    end_batch(1, 256);
    EXPECT_FALSE(window_.has_room());
    finish_all();
  }
}

TEST_F(CopyWindowTest, TracesEachBatchFromWhereTheOneBeforeEnded) {
  for (std::uint32_t layer = 0; layer < 4; layer += 2) {
    end_batch(layer, 100 + layer);
    end_batch(layer + 1, 101 + layer);
    finish_all();
  }
  const std::vector<TraceEvent> events = trace_.events();
  ASSERT_EQ(events.size(), 4u);
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(events[i].layer, i);
    EXPECT_EQ(events[i].bytes, 100 + i);
    EXPECT_LT(events[i].begin, events[i].end);
    if (i > 0) {
      EXPECT_GE(events[i].begin, events[i - 1].end);
    }
  }
}

}  // namespace
}  // namespace tierstream
