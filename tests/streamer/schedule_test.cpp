#include "schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace tierstream {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::uint32_t> upcoming(Schedule& schedule, std::size_t limit,
                                    std::vector<std::uint32_t> before = {}) {
  const std::vector<std::uint32_t> known = before;
  schedule.visit_upcoming(known, [&](std::uint32_t layer) {
    if (before.size() == limit) return false;
    before.push_back(layer);
    return true;
  });
  return before;
}

TEST(Schedule, WalksTheLayersAndWraps) {
  Schedule schedule(4);
  EXPECT_THAT(upcoming(schedule, 3), ElementsAre(0, 1, 2));
  for (const std::uint32_t layer : {0, 1, 2}) schedule.advance_past(layer);
  EXPECT_THAT(upcoming(schedule, 3), ElementsAre(3, 0, 1));
  schedule.advance_past(3);
  EXPECT_THAT(upcoming(schedule, 3), ElementsAre(0, 1, 2));
}

TEST(Schedule, NamesEachLayerOnceHoweverManyAreAskedFor) {
  Schedule schedule(3);
  EXPECT_THAT(upcoming(schedule, 10), ElementsAre(0, 1, 2));
  const std::array<std::uint32_t, 5> order{2, 2, 0, 2, 1};
  schedule.begin_pass(order, true);
  EXPECT_THAT(upcoming(schedule, 10), ElementsAre(2, 0, 1));
}

TEST(Schedule, DoesNotWrapAfterTheLastPass) {
  Schedule schedule(3);
  const std::array<std::uint32_t, 3> order{0, 1, 2};
  schedule.begin_pass(order, false);
  schedule.advance_past(0);
  EXPECT_THAT(upcoming(schedule, 3), ElementsAre(1, 2));
  schedule.advance_past(1);
  schedule.advance_past(2);
  EXPECT_THAT(upcoming(schedule, 3), IsEmpty());
}

TEST(Schedule, AnAcquireOffTheScheduleReanchorsIt) {
  Schedule schedule(6);
  schedule.advance_past(0);
  EXPECT_TRUE(schedule.anchor(4));
  EXPECT_THAT(upcoming(schedule, 3), ElementsAre(4, 5, 0));
  EXPECT_FALSE(schedule.anchor(4)) << "it is the next use already";
  EXPECT_TRUE(schedule.anchor(1)) << "behind: found by wrapping";
  EXPECT_THAT(upcoming(schedule, 2), ElementsAre(1, 2));
}

TEST(Schedule, TheNearestOfSeveralUsesCounts) {
  Schedule schedule(3);
  const std::array<std::uint32_t, 5> order{0, 1, 0, 2, 0};
  schedule.begin_pass(order, true);
  schedule.advance_past(0);
  schedule.anchor(0);
  schedule.advance_past(0);
  EXPECT_THAT(upcoming(schedule, 3), ElementsAre(2, 0, 1));
}

TEST(Schedule, ALayerThatIsNotInTheOrderChangesNothing) {
  Schedule schedule(4);
  const std::array<std::uint32_t, 2> order{1, 2};
  schedule.begin_pass(order, true);
  EXPECT_FALSE(schedule.anchor(3));
  schedule.advance_past(3);
  EXPECT_THAT(upcoming(schedule, 4), ElementsAre(1, 2));
}

TEST(Schedule, WhatIsWantedAlreadyIsNotNamedAgain) {
  Schedule schedule(4);
  EXPECT_THAT(upcoming(schedule, 3, {2, 4}), ElementsAre(2, 4, 0));
}

}  // namespace
}  // namespace tierstream
