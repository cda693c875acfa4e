#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/pinned_ring.h>

#include <set>
#include <utility>

#include "support/fake_device.h"

namespace tierstream::testing {
namespace {

constexpr RingShape kShape = {.block_bytes = 8192, .blocks = 3};

struct Scene {
  FakeDevice device;
  TierBudget budget{"pinned", 1u << 20};
};

TEST(PinnedRing, HandsOutEachBlockOnce) {
  Scene scene;
  PinnedRing ring(scene.device, scene.budget, kShape);
  std::vector<PinnedRing::Block> blocks;
  std::set<std::uint64_t> offsets;
  while (auto block = ring.try_take()) {
    EXPECT_EQ(block->memory().size(), kShape.block_bytes);
    offsets.insert(static_cast<std::uint64_t>(block->memory().data() - ring.memory().data()));
    blocks.push_back(std::move(*block));
  }
  EXPECT_EQ(offsets, (std::set<std::uint64_t>{0, 8192, 16384}));
  EXPECT_EQ(ring.free_blocks(), 0u);
}

TEST(PinnedRing, TakesABlockBackAtItsEnd) {
  Scene scene;
  PinnedRing ring(scene.device, scene.budget, {.block_bytes = 4096, .blocks = 1});
  auto block = ring.try_take();
  EXPECT_FALSE(ring.try_take());
  block.reset();
  EXPECT_TRUE(ring.try_take());
}

TEST(PinnedRing, TakesBlocksBackInAnyOrder) {
  Scene scene;
  PinnedRing ring(scene.device, scene.budget, kShape);
  auto first = ring.try_take();
  auto second = ring.try_take();
  const auto index = first->index();
  first.reset();
  EXPECT_EQ(ring.free_blocks(), 2u);
  EXPECT_EQ(ring.try_take()->index(), index);
  second.reset();
  EXPECT_EQ(ring.free_blocks(), 3u);
}

TEST(PinnedRing, TakesAMovedBlockBackOnce) {
  Scene scene;
  PinnedRing ring(scene.device, scene.budget, kShape);
  {
    auto block = ring.try_take();
    PinnedRing::Block moved = std::move(*block);
    block.reset();
    EXPECT_EQ(ring.free_blocks(), 2u);
  }
  EXPECT_EQ(ring.free_blocks(), 3u);
}

TEST(PinnedRing, TakesABlockBackOnceAnotherTakesItsPlace) {
  Scene scene;
  PinnedRing ring(scene.device, scene.budget, {.block_bytes = 4096, .blocks = 2});
  auto block = ring.try_take();
  auto next = ring.try_take();
  *block = std::move(*next);
  EXPECT_EQ(ring.free_blocks(), 1u);
}

TEST(PinnedRing, HoldsItsBytesOfTheBudgetWhileItLives) {
  Scene scene;
  {
    const PinnedRing ring(scene.device, scene.budget, kShape);
    EXPECT_EQ(scene.budget.used_bytes(), kShape.bytes());
    EXPECT_EQ(scene.device.registered_bytes(), kShape.bytes());
    EXPECT_EQ(ring.registration_refusal(), "");
  }
  EXPECT_EQ(scene.budget.used_bytes(), 0u);
  EXPECT_EQ(scene.device.registered_bytes(), 0u);
}

TEST(PinnedRing, DoesNotExceedTheBudget) {
  Scene scene;
  try {
    const PinnedRing ring(scene.device, scene.budget, {.block_bytes = 1u << 20, .blocks = 2});
    FAIL() << "twice the budget was given";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kBudgetTooSmall);
    EXPECT_STREQ(
        error.what(),
        "a ring of 2 blocks of 1.00 MiB needs 2.00 MiB (2097152 bytes) of the pinned budget; 1.00 MiB "
        "(1048576 bytes) of 1.00 MiB are left");
  }
  EXPECT_EQ(scene.budget.peak_bytes(), 0u);
  EXPECT_EQ(scene.device.registered_bytes(), 0u);
}

TEST(PinnedRing, KeepsTheReasonWhyItIsNotRegistered) {
  Scene scene;
  scene.device.refuse_registration("not today");
  PinnedRing ring(scene.device, scene.budget, kShape);
  EXPECT_EQ(ring.registration_refusal(), "not today");
  EXPECT_TRUE(ring.try_take());
}

TEST(PinnedRing, LeavesAbandonedMemoryWritable) {
  Scene scene;
  std::span<std::byte> memory;
  {
    PinnedRing ring(scene.device, scene.budget, kShape);
    memory = ring.memory();
    ring.abandon_memory();
  }
  memory.back() = std::byte{1};
  EXPECT_EQ(memory.back(), std::byte{1});
  HostMemory::adopt(memory.data(), memory.size());
}

}  // namespace
}  // namespace tierstream::testing
