#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/plan.h>

#include "support/thrown.h"

namespace tierstream {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kMiB = 1u << 20;

/// `layers` layers of `layer_bytes`, one tensor each, behind `outside_bytes` outside them; one file.
LayerTable table(std::size_t layers, std::uint64_t layer_bytes, std::uint64_t outside_bytes,
                 std::uint64_t skew = 0) {
  LayerTable result;
  std::uint64_t offset = skew;
  const auto add = [&](Layer& layer, std::uint64_t bytes) {
    layer.tensors.push_back(
        {"w", DType::kU8, {static_cast<std::int64_t>(bytes)}, bytes, FileExtent{0, offset}});
    offset += bytes;
  };
  if (outside_bytes != 0) add(result.outside, outside_bytes);
  for (std::size_t i = 0; i < layers; ++i)
    add(result.layers.emplace_back(Layer{fmt::format("l.{}", i), {}}), layer_bytes);
  result.files.push_back(
      {"f", {.bytes = offset, .offset_alignment = 512, .memory_alignment = 512, .version = {}}});
  return result;
}

TEST(Plan, FillsTheGpuBudgetWithSlotsAndNoMoreThanThereAreLayers) {
  const LayerTable model = table(10, kMiB, 2 * kMiB);
  const Plan some = make_plan(model, {.gpu = 6 * kMiB, .pinned = 8 * kMiB});
  EXPECT_EQ(some.slots, 4u);
  EXPECT_EQ(some.used.gpu, 6 * kMiB);
  const Plan all = make_plan(model, {.gpu = 100 * kMiB, .pinned = 8 * kMiB});
  EXPECT_EQ(all.slots, 10u);
  EXPECT_EQ(all.disk_bytes, 0u) << "every layer has a slot: nothing moves after the first pass";
}

TEST(Plan, NeverUsesMoreThanTheBudget) {
  const LayerTable model = table(7, 3 * kMiB + 17, kMiB + 5, 8);
  const Budget least = make_plan(model, {.gpu = 1u << 30, .pinned = 1u << 30}).minimum;
  for (std::uint64_t extra = 0; extra < 40 * kMiB; extra += 1'234'567) {
    const Budget budget{.gpu = least.gpu + extra, .pinned = least.pinned + extra};
    const Plan plan = make_plan(model, budget);
    EXPECT_LE(plan.used.gpu, budget.gpu);
    EXPECT_LE(plan.used.pinned, budget.pinned);
    EXPECT_GE(plan.slots, 1u);
    EXPECT_GE(plan.ring.blocks, 2u);
  }
}

TEST(Plan, SaysForEachTierWhatItNeedsAtLeast) {
  const LayerTable model = table(3, 4 * kMiB, kMiB);
  expect_throws(Errc::kBudgetTooSmall, HasSubstr("gpu needs at least 5242880 bytes"),
                [&] { make_plan(model, {.gpu = kMiB, .pinned = 2 * kMiB}); });
  expect_throws(Errc::kBudgetTooSmall, HasSubstr("pinned needs at least 2097152 bytes"),
                [&] { make_plan(model, {.gpu = 5 * kMiB, .pinned = 2 * kMiB - 1}); });
  const Plan plan = make_plan(model, {.gpu = 5 * kMiB, .pinned = 2 * kMiB});
  EXPECT_EQ(plan.slots, 1u);
  EXPECT_EQ(plan.minimum.gpu, 5 * kMiB);
}

TEST(Plan, NeedsNoRingWhereEveryReadLands) {
  const Plan plan = make_plan(table(3, kMiB, 0), {.gpu = 2 * kMiB}, {}, {.reads_land = true});
  EXPECT_EQ(plan.ring.blocks, 0u);
  EXPECT_EQ(plan.minimum.pinned, 0u);
  EXPECT_EQ(plan.copied_bytes, 0u);
}

TEST(Plan, TakesTheLargestBlocksOfWhichTheBudgetHoldsSixteenAndNoMoreRingThanHelps) {
  const LayerTable model = table(4, 64 * kMiB, 0);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 128 * kMiB}).ring.block_bytes, 8 * kMiB);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 64 * kMiB}).ring.block_bytes, 4 * kMiB);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 9 * kMiB}).ring.block_bytes, kMiB);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 2 * kMiB}).ring.block_bytes, kMiB);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 1u << 30}).ring.bytes(), 256 * kMiB);
}

TEST(Plan, BoundsAPassByItsSlowestLink) {
  const LayerTable model = table(4, 64 * kMiB, 0);
  const Budget budget{.gpu = 64 * kMiB, .pinned = 64 * kMiB};
  const Plan disk = make_plan(model, budget, {.disk = 64.0 * kMiB, .host_to_device = 256.0 * kMiB});
  EXPECT_DOUBLE_EQ(disk.bound_seconds, 4.0);
  EXPECT_EQ(disk.binding_link, "disk");
  const Plan copy = make_plan(model, budget, {.disk = 64.0 * kMiB, .host_to_device = 32.0 * kMiB});
  EXPECT_DOUBLE_EQ(copy.bound_seconds, 8.0);
  EXPECT_EQ(copy.binding_link, "host to device");
}

TEST(Plan, RefusesAPageCacheBudgetAndAModelWithoutLayers) {
  expect_throws(Errc::kInvalidBudget, HasSubstr("not built yet"),
                [&] { make_plan(table(1, kMiB, 0), {.gpu = kMiB, .pinned = 2 * kMiB, .page_cache = 1}); });
  expect_throws(Errc::kInvalidArgument, HasSubstr("no layers"), [&] { make_plan(table(0, 0, kMiB), {}); });
}

}  // namespace
}  // namespace tierstream
