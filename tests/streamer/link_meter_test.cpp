#include "link_meter.h"

#include <gtest/gtest.h>

#include <chrono>

namespace tierstream {
namespace {

using std::chrono_literals::operator""s;

class HandClock final : public Clock {
 public:
  std::chrono::nanoseconds now() const override {
    ++asked;
    return time;
  }
  std::chrono::nanoseconds time{0};
  mutable int asked = 0;
};

class LinkMeterTest : public ::testing::Test {
 protected:
  void set_busy_at(std::chrono::nanoseconds time, bool busy) {
    clock_.time = time;
    meter_.set_busy(busy);
  }
  double busy_seconds_at(std::chrono::nanoseconds time) {
    clock_.time = time;
    return meter_.work().busy_seconds;
  }

  HandClock clock_;
  LinkMeter meter_{clock_};
};

TEST_F(LinkMeterTest, AddsUpTheTimesOfWork) {
  EXPECT_EQ(busy_seconds_at(5s), 0);
  set_busy_at(10s, true);
  EXPECT_EQ(busy_seconds_at(10s), 0);
  EXPECT_EQ(busy_seconds_at(13s), 3) << "what goes on counts so far";
  set_busy_at(14s, false);
  EXPECT_EQ(busy_seconds_at(20s), 4);
  set_busy_at(20s, true);
  set_busy_at(21s, false);
  EXPECT_EQ(busy_seconds_at(30s), 5);
}

TEST_F(LinkMeterTest, ReadsTheClockOnlyWhereWorkBeginsOrEnds) {
  for (int i = 0; i < 3; ++i) set_busy_at(1s, false);
  EXPECT_EQ(clock_.asked, 0);
  for (int i = 0; i < 3; ++i) set_busy_at(2s + 1s * i, true);
  for (int i = 0; i < 3; ++i) set_busy_at(8s + 1s * i, false);
  EXPECT_EQ(clock_.asked, 2);
  EXPECT_EQ(busy_seconds_at(11s), 6);
}

TEST_F(LinkMeterTest, WhatHappenedBetweenTwoReadingsIsTheirDifference) {
  meter_.add_bytes(3);
  set_busy_at(1s, true);
  clock_.time = 4s;
  const LinkWork before = meter_.work();
  meter_.add_bytes(39);
  set_busy_at(6s, false);
  clock_.time = 9s;
  const LinkWork work = meter_.work() - before;
  EXPECT_EQ(work.bytes, 39u);
  EXPECT_EQ(work.busy_seconds, 2);
}

}  // namespace
}  // namespace tierstream
