// The simulation is the judge of the staging loop; these tests are of the judge. Each tells it one lie that
// breaks one of the four orderings, and it must notice.

#include "simulation/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tierstream::simulation {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr std::uint64_t kSeeds = 300;

/// What the simulation says of the first seed in which it notices the lies; empty if it never does.
std::string what_is_noticed(const Lies& lies) {
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    try {
      simulate(seed, lies);
    } catch (const Failure& failure) {
      return failure.what();
    }
  }
  return "";
}

Lies lying_device(bool DeviceLies::*lie) {
  Lies lies;
  lies.device.*lie = true;
  return lies;
}

TEST(Simulation, FindsNothingWhenNobodyLies) { EXPECT_EQ(what_is_noticed({}), ""); }

TEST(Simulation, NoticesACompletionBeforeItsBytes) {
  EXPECT_NE(what_is_noticed({.device = {}, .storage_completes_early = true}).find("wrong bytes"),
            std::string::npos);
}

TEST(Simulation, NoticesABlockReusedBeforeItsCopyIsDone) {
  EXPECT_NE(what_is_noticed(lying_device(&DeviceLies::copies_done_early)).find("wrong bytes"),
            std::string::npos);
}

TEST(Simulation, NoticesASlotRewrittenBeforeComputeIsDone) {
  EXPECT_NE(what_is_noticed(lying_device(&DeviceLies::fences_done_early)).find("wrong bytes"),
            std::string::npos);
}

TEST(Simulation, NoticesComputeThatDoesNotWaitForItsCopies) {
  EXPECT_NE(what_is_noticed(lying_device(&DeviceLies::waits_ignored)).find("wrong bytes"), std::string::npos);
}

TEST(Simulation, NoticesASlotThatIsNotPoisonedWhenItsLastLeaseEnds) {
  EXPECT_NE(what_is_noticed(lying_device(&DeviceLies::fills_ignored)).find("where poison should be"),
            std::string::npos);
}

TEST(Simulation, NoticesCopiesBeyondTheCopyWindow) {
  EXPECT_NE(what_is_noticed({.device = {}, .copies_all_at_once = true}).find("copied ahead"),
            std::string::npos);
}

TEST(Simulation, NoticesALoopThatSleepsOn) {
  // Who notices first, a caller or what waits for the loop to drain, is up to the seeds.
  EXPECT_THAT(what_is_noticed({.device = {}, .storage_loses_wakes = true}),
              AnyOf(HasSubstr("waits for ever"), HasSubstr("does not end")));
}

TEST(Simulation, ReplaysASeedExactly) {
  const Outcome first = simulate(7);
  const Outcome second = simulate(7);
  EXPECT_GT(first.leases, 0u);
  EXPECT_EQ(first.leases, second.leases);
  EXPECT_EQ(first.tensors_checked, second.tensors_checked);
}

}  // namespace
}  // namespace tierstream::simulation
