#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/slot_arena.h>

#include <algorithm>
#include <utility>

#include "support/fake_device.h"

namespace tierstream::testing {
namespace {

constexpr std::uint64_t kSlotBytes = 8192;

struct TwoStreams {
  FakeDevice device;
  TierBudget budget{"gpu", 1u << 20};
  int handles[2] = {};
  const Stream stream{&handles[0]};
  const Stream other_stream{&handles[1]};
};

TEST(SlotArena, HandsOutEachSlotOnce) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 2);
  const auto first = arena.try_take();
  const auto second = arena.try_take();
  ASSERT_TRUE(first && second);
  EXPECT_NE(first->index(), second->index());
  EXPECT_FALSE(arena.try_take());
}

TEST(SlotArena, TakesASlotBackAtItsEnd) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 1);
  auto slot = arena.try_take();
  slot.reset();
  EXPECT_FALSE(arena.fences_pending());
  EXPECT_TRUE(arena.try_take());
}

TEST(SlotArena, TakesAMovedSlotBackOnce) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 1);
  auto slot = arena.try_take();
  SlotArena::Slot moved = std::move(*slot);
  slot.reset();
  EXPECT_FALSE(arena.try_take());
}

TEST(SlotArena, TakesASlotBackOnceAnotherTakesItsPlace) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 2);
  auto slot = arena.try_take(0);
  auto next = arena.try_take(1);
  *slot = std::move(*next);
  EXPECT_EQ(slot->index(), 1u);
  EXPECT_TRUE(arena.try_take(0));
}

TEST(SlotArena, HandsOutTheSlotAskedFor) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 3);
  const auto slot = arena.try_take(1);
  ASSERT_TRUE(slot);
  EXPECT_EQ(slot->index(), 1u);
  EXPECT_FALSE(arena.try_take(1));
  EXPECT_TRUE(arena.try_take(2));
}

TEST(SlotArena, HoldsBackASlotUntilItsFenceIsDone) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 1);
  auto slot = arena.try_take();
  arena.fence(0, scene.stream);
  slot.reset();
  EXPECT_FALSE(arena.try_take());
  EXPECT_FALSE(arena.try_take(0));
  EXPECT_TRUE(arena.fences_pending());
  scene.device.finish(scene.stream);
  EXPECT_FALSE(arena.fences_pending());
  EXPECT_TRUE(arena.try_take());
}

TEST(SlotArena, HoldsBackASlotUntilTheFencesOfAllItsStreamsAreDone) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 1);
  auto slot = arena.try_take();
  arena.fence(0, scene.stream);
  arena.fence(0, scene.other_stream);
  slot.reset();
  scene.device.finish(scene.other_stream);
  EXPECT_FALSE(arena.try_take());
  scene.device.finish(scene.stream);
  EXPECT_TRUE(arena.try_take());
}

TEST(SlotArena, HoldsBackASlotUntilTheLastFenceOfAStreamIsDone) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 1);
  auto slot = arena.try_take();
  arena.fence(0, scene.stream);
  scene.device.finish(scene.stream);
  arena.fence(0, scene.stream);
  slot.reset();
  EXPECT_FALSE(arena.try_take());
  scene.device.finish(scene.stream);
  EXPECT_TRUE(arena.try_take());
}

TEST(SlotArena, HandsOutAnotherSlotWhileOneIsHeldBack) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 2);
  auto first = arena.try_take();
  arena.fence(first->index(), scene.stream);
  const auto held_back = first->index();
  first.reset();
  const auto second = arena.try_take();
  ASSERT_TRUE(second);
  EXPECT_NE(second->index(), held_back);
}

TEST(SlotArena, PoisonsASlotAfterAllThatUsedItAndBeforeItIsHandedOut) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 1);
  auto slot = arena.try_take();
  const int use = scene.device.queue(scene.other_stream);
  arena.fence(0, scene.other_stream);
  arena.poison(0, scene.stream);
  EXPECT_TRUE(scene.device.waits_for(scene.stream, scene.other_stream, use));
  EXPECT_EQ(std::ranges::count(arena.memory(0), kPoison), static_cast<std::ptrdiff_t>(kSlotBytes));
  slot.reset();
  scene.device.finish(scene.other_stream);
  EXPECT_FALSE(arena.try_take());
  scene.device.finish(scene.stream);
  EXPECT_TRUE(arena.try_take());
}

TEST(SlotArena, ASlotInUseIsNotPending) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 1);
  const auto slot = arena.try_take();
  arena.fence(0, scene.stream);
  EXPECT_FALSE(arena.fences_pending());
}

TEST(SlotArena, MakesOneFencePerSlotAndStreamHoweverOftenTheyAreUsed) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 2);
  for (int pass = 0; pass < 10; ++pass) {
    for (std::uint32_t index = 0; index < arena.slots(); ++index) {
      const auto slot = arena.try_take(index);
      ASSERT_TRUE(slot);
      arena.fence(index, scene.stream);
      arena.fence(index, scene.other_stream);
    }
    scene.device.finish(scene.stream);
    scene.device.finish(scene.other_stream);
  }
  EXPECT_EQ(scene.device.events_made(), 4);
}

TEST(SlotArena, SlotsKeepTheirAddresses) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 3);
  std::byte* const address = arena.address(2);
  arena.try_take(2).reset();
  EXPECT_EQ(arena.address(2), address);
  EXPECT_EQ(arena.memory(2).data(), address);
  EXPECT_EQ(arena.memory(2).size(), kSlotBytes);
}

TEST(SlotArena, FreesOneSlotAndGivesItsBytesBack) {
  TwoStreams scene;
  SlotArena arena(scene.device, scene.budget, kSlotBytes, 3);
  arena.free_memory(1);
  arena.free_memory(1);
  EXPECT_EQ(scene.budget.used_bytes(), 2 * kSlotBytes);
  EXPECT_EQ(scene.device.allocated_bytes(), 2 * kSlotBytes);
  EXPECT_NE(arena.address(2), nullptr);
}

TEST(SlotArena, HoldsItsBytesOfTheBudgetWhileItLives) {
  TwoStreams scene;
  {
    const SlotArena arena(scene.device, scene.budget, kSlotBytes, 3);
    EXPECT_EQ(scene.budget.used_bytes(), 3 * kSlotBytes);
    EXPECT_EQ(scene.device.allocated_bytes(), 3 * kSlotBytes);
  }
  EXPECT_EQ(scene.budget.used_bytes(), 0u);
  EXPECT_EQ(scene.device.allocated_bytes(), 0u);
}

TEST(SlotArena, AllocatesNothingBeyondTheBudget) {
  TwoStreams scene;
  try {
    const SlotArena arena(scene.device, scene.budget, 1u << 20, 2);
    FAIL() << "twice the budget was given";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kBudgetTooSmall);
    EXPECT_STREQ(error.what(),
                 "memory for 2 slots of 1.00 MiB needs 2.00 MiB (2097152 bytes) of the gpu budget; 1.00 MiB "
                 "(1048576 bytes) of 1.00 MiB are left");
  }
  EXPECT_EQ(scene.device.allocated_bytes(), 0u);
  EXPECT_EQ(scene.budget.peak_bytes(), 0u);
}

TEST(SlotArena, LeavesAbandonedMemoryWritable) {
  TwoStreams scene;
  std::span<std::byte> memory;
  {
    SlotArena arena(scene.device, scene.budget, kSlotBytes, 1);
    memory = arena.memory(0);
    arena.abandon_memory();
  }
  memory.back() = std::byte{1};
  EXPECT_EQ(scene.device.allocated_bytes(), kSlotBytes);
  HostMemory::adopt(memory.data(), memory.size());
}

}  // namespace
}  // namespace tierstream::testing
