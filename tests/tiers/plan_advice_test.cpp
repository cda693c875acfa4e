#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/plan_advice.h>

#include <limits>
#include <vector>

#include "support/byte_units.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kLayers = 10;
constexpr std::uint64_t kLayerBytes = 8 * kMiB;
constexpr std::uint64_t kModelBytes = kLayers * kLayerBytes;
constexpr LinkRates kRates{.disk = 8.0 * kMiB, .host_to_device = 80.0 * kMiB};
/// One slot, the least ring, nothing kept.
constexpr Budget kLeast{.gpu = kLayerBytes, .pinned = 2 * kMiB};

/// Ten layers of eight tensors of 1 MiB, in one file.
LayerTable model() {
  LayerTable table;
  for (std::uint64_t i = 0; i < kLayers; ++i) {
    Layer& layer = table.layers.emplace_back(Layer{fmt::format("l.{}", i), {}});
    for (std::uint64_t at = 0; at < kLayerBytes; at += kMiB) {
      layer.tensors.push_back(
          {fmt::format("t{}", at), DType::kU8, {1 << 20}, kMiB, FileExtent{0, i * kLayerBytes + at}});
    }
  }
  table.files.push_back({"f",
                         {.bytes = kModelBytes,
                          .offset_alignment = 512,
                          .memory_alignment = 512,
                          .is_local_file = true,
                          .version = {}}});
  return table;
}

BudgetAdvice advice(const Budget& budget, const LinkRates& rates = kRates, const PlanOptions& options = {},
                    std::uint64_t more_bytes = 16 * kMiB) {
  const LayerTable table = model();
  return advise(table, budget, rates, options, make_plan(table, budget, rates, options), more_bytes);
}

TEST(PlanAdvice, CountsWhatMoreOfEachTierSaves) {
  const BudgetAdvice more = advice({.gpu = 3 * kLayerBytes, .pinned = 8 * kMiB, .page_cache = 0});
  EXPECT_EQ(more.page_cache.disk_bytes, 16 * kMiB);
  EXPECT_EQ(more.page_cache.copied_bytes, 0u) << "kept pages are still copied to the device";
  EXPECT_NEAR(more.page_cache.seconds, 2.0, 0.01);
  EXPECT_GE(more.gpu.disk_bytes, 15 * kMiB) << "tensors are whole and cost a little beside their bytes";
  EXPECT_LE(more.gpu.disk_bytes, 24 * kMiB) << "the slots shrink with what is resident";
  EXPECT_EQ(more.gpu.copied_bytes, more.gpu.disk_bytes);
  EXPECT_NEAR(more.gpu.seconds, static_cast<double>(more.gpu.disk_bytes) / kRates.disk, 0.5);
  EXPECT_EQ(more.pinned.disk_bytes + more.pinned.copied_bytes, 0u);
  EXPECT_EQ(more.pinned.seconds, 0.0);
}

TEST(PlanAdvice, IsMadeOfThePlansThemselves) {
  const LayerTable table = model();
  const Budget budget{.gpu = 3 * kLayerBytes, .pinned = 8 * kMiB, .page_cache = 5 * kMiB};
  const Budget larger{.gpu = budget.gpu + kMiB, .pinned = budget.pinned, .page_cache = budget.page_cache};
  const Plan before = make_plan(table, budget, kRates);
  const Plan after = make_plan(table, larger, kRates);
  const BudgetAdvice more = advise(table, budget, kRates, {}, before, kMiB);
  EXPECT_EQ(more.gpu.disk_bytes, before.disk_bytes - after.disk_bytes);
  EXPECT_DOUBLE_EQ(more.gpu.seconds, before.predicted_seconds - after.predicted_seconds);
}

TEST(PlanAdvice, SavesBytesAlsoWhereRatesAreUnknown) {
  const BudgetAdvice more = advice({.gpu = 3 * kLayerBytes, .pinned = 8 * kMiB}, {});
  EXPECT_EQ(more.page_cache.disk_bytes, 16 * kMiB);
  EXPECT_EQ(more.page_cache.seconds, 0.0);
}

TEST(PlanAdvice, SavesNothingWhereAllIsThere) {
  const BudgetAdvice more = advice({.gpu = 1u << 30, .pinned = 8 * kMiB, .page_cache = 0});
  for (const PassSaving& saved : {more.gpu, more.pinned, more.page_cache}) {
    EXPECT_EQ(saved.disk_bytes + saved.copied_bytes, 0u);
    EXPECT_EQ(saved.seconds, 0.0);
  }
}

TEST(PlanAdvice, AddsNoMoreThanABudgetCanSay) {
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(advice({.gpu = kMost, .pinned = kMost, .page_cache = kMost}).gpu.disk_bytes, 0u);
}

TEST(BudgetCurve, RunsFromTheLeastThatWorksToTheMostThatIsOfUse) {
  const LayerTable table = model();
  const std::vector<BudgetPoint> cached = curve_over(&Budget::page_cache, table, kLeast, kRates, {}, 10);
  ASSERT_EQ(cached.size(), 11u);
  EXPECT_EQ(cached.front().bytes, 0u);
  EXPECT_EQ(cached.front().disk_bytes, kModelBytes);
  EXPECT_EQ(cached[5].bytes, kModelBytes / 2);
  EXPECT_EQ(cached[5].disk_bytes, kModelBytes / 2);
  EXPECT_EQ(cached.back().bytes, kModelBytes);
  EXPECT_EQ(cached.back().disk_bytes, 0u);
  EXPECT_EQ(cached.back().copied_bytes, kModelBytes);
  EXPECT_DOUBLE_EQ(cached.back().seconds, static_cast<double>(kModelBytes) / kRates.host_to_device);

  const std::vector<BudgetPoint> resident = curve_over(&Budget::gpu, table, kLeast, kRates, {}, 10);
  ASSERT_EQ(resident.size(), 11u);
  EXPECT_EQ(resident.front().bytes, kLeast.gpu);
  EXPECT_EQ(resident.front().disk_bytes, kModelBytes);
  EXPECT_GE(resident.back().bytes, kModelBytes);
  EXPECT_LE(resident.back().bytes, kModelBytes + kMiB) << "beside what placing tensors takes";
  EXPECT_EQ(resident.back().disk_bytes + resident.back().copied_bytes, 0u);
  EXPECT_EQ(resident.back().seconds, 0.0);
}

TEST(BudgetCurve, NeverRises) {
  const LayerTable table = model();
  for (const auto tier : {&Budget::gpu, &Budget::pinned, &Budget::page_cache}) {
    const std::vector<BudgetPoint> points = curve_over(tier, table, kLeast, kRates, {}, 37);
    ASSERT_EQ(points.size(), 38u);
    for (std::size_t i = 1; i < points.size(); ++i) {
      EXPECT_GT(points[i].bytes, points[i - 1].bytes);
      EXPECT_LE(points[i].seconds, points[i - 1].seconds * (1 + 1e-9));
      EXPECT_LE(points[i].disk_bytes, points[i - 1].disk_bytes);
    }
  }
}

TEST(BudgetCurve, OfNoStepsIsTheLeastThatWorks) {
  const std::vector<BudgetPoint> points = curve_over(&Budget::gpu, model(), kLeast, kRates, {}, 0);
  ASSERT_EQ(points.size(), 1u);
  EXPECT_EQ(points[0].bytes, kLeast.gpu);
}

TEST(BudgetCurve, LeavesOutWhatDoesNotWorkForAnotherTier) {
  // On the host nothing needs a slot once all is used where it is mapped.
  const Budget budget{.gpu = 0, .pinned = 8 * kMiB, .page_cache = kModelBytes};
  const std::vector<BudgetPoint> points =
      curve_over(&Budget::page_cache, model(), budget, kRates, {.is_host = true, .layer_seconds = {}}, 10);
  ASSERT_EQ(points.size(), 1u);
  EXPECT_EQ(points[0].bytes, kModelBytes);
  EXPECT_EQ(points[0].disk_bytes, 0u);
}

TEST(BudgetCurve, RefusesABudgetThatDoesNotWorkWithAnyBytesOfTheTier) {
  expect_throws(Errc::kBudgetTooSmall, HasSubstr("gpu needs at least"), [] {
    curve_over(&Budget::page_cache, model(), {.gpu = 1, .pinned = 2 * kMiB}, kRates, {}, 4);
  });
}

}  // namespace
}  // namespace tierstream
