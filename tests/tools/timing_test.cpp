#include "tools/timing.h"

#include <gmock/gmock.h>

#include <stdexcept>
#include <utility>

namespace tierstream {
namespace {

using testing::ElementsAre;
using testing::Pair;

/// Runs that tell their order, and whose time is 1 for the first run of all, 2 for the second, ...
class CountingRuns {
 public:
  std::vector<TimedRun> make(std::size_t count) {
    std::vector<TimedRun> runs;
    for (std::size_t i = 0; i < count; ++i) {
      runs.push_back([this, i] {
        order.push_back(i);
        return static_cast<double>(order.size());
      });
    }
    return runs;
  }

  std::vector<std::size_t> order;
};

TEST(Quantile, InterpolatesBetweenTheValuesInOrder) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_DOUBLE_EQ(quantile(values, 0), 1);
  EXPECT_DOUBLE_EQ(quantile(values, 0.25), 1.75);
  EXPECT_DOUBLE_EQ(quantile(values, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile(values, 1), 4);
  EXPECT_DOUBLE_EQ(quantile(std::vector<double>{7}, 0.5), 7);
}

TEST(TakeTurns, GoesForwardsAndBackwardsAndKeepsEachRunsTimesApart) {
  CountingRuns counting;
  std::vector<std::pair<std::size_t, std::size_t>> progress;
  const auto seconds = take_turns(
      counting.make(3), 3, [&](std::size_t done, std::size_t all) { progress.emplace_back(done, all); });
  EXPECT_THAT(counting.order, ElementsAre(0, 1, 2, 2, 1, 0, 0, 1, 2));
  EXPECT_THAT(seconds, ElementsAre(ElementsAre(1, 6, 7), ElementsAre(2, 5, 8), ElementsAre(3, 4, 9)));
  ASSERT_EQ(progress.size(), 9u);
  EXPECT_THAT(progress.front(), Pair(1, 9));
  EXPECT_THAT(progress.back(), Pair(9, 9));
}

TEST(TakeTurns, IsStoppedByAThrow) {
  CountingRuns counting;
  const auto stop_after_two = [](std::size_t done, std::size_t) {
    if (done == 2) throw std::runtime_error("enough");
  };
  EXPECT_THROW(take_turns(counting.make(3), 1, stop_after_two), std::runtime_error);
  EXPECT_THAT(counting.order, ElementsAre(0, 1));
}

}  // namespace
}  // namespace tierstream
