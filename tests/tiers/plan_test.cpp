#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/plan.h>

#include <algorithm>
#include <array>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "support/byte_units.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using ::testing::HasSubstr;

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

TEST(Plan, TakesThreeSlotsAndKeepsTensorsResidentBeyond) {
  const LayerTable model = table(10, kMiB, 2 * kMiB);
  const Plan two = make_plan(model, {.gpu = 4 * kMiB, .pinned = 8 * kMiB});
  EXPECT_EQ(two.slots, 2u);
  EXPECT_EQ(two.resident_bytes, 0u);
  const Plan some = make_plan(model, {.gpu = 7 * kMiB + 64 * 1024, .pinned = 8 * kMiB});
  EXPECT_EQ(some.slots, 3u);
  EXPECT_EQ(some.resident_bytes, 2 * kMiB);
  EXPECT_EQ(some.disk_bytes, 8 * kMiB);
  const Plan all = make_plan(model, {.gpu = 100 * kMiB, .pinned = 8 * kMiB});
  EXPECT_EQ(all.slots, 0u);
  EXPECT_EQ(all.resident_bytes, 10 * kMiB);
  EXPECT_EQ(all.disk_bytes, 0u);
}

TEST(Plan, KeepsEverythingResidentInWhatThatTakes) {
  const LayerTable model = table(4, kMiB / 4, 45 * 1024, 64);
  for (const bool reads_land : {false, true}) {
    const PlanOptions options{.reads_land = reads_land, .layer_seconds = {}};
    const Budget used = make_plan(model, {.gpu = 1u << 30, .pinned = 4 * kMiB}, {}, options).used;
    EXPECT_EQ(make_plan(model, {.gpu = used.gpu, .pinned = 4 * kMiB}, {}, options).copied_bytes, 0u);
    EXPECT_NE(make_plan(model, {.gpu = used.gpu - 1, .pinned = 4 * kMiB}, {}, options).slots, 0u);
  }
}

TEST(Plan, KeepsEverythingResidentWhereSlotsOfUnequalLayersTakeMore) {
  LayerTable model = table(2, kMiB, 0);
  model.layers.push_back(table(1, 8 * kMiB, 0, 2 * kMiB).layers[0]);
  model.files[0].info.bytes = 10 * kMiB;
  const Plan plan = make_plan(model, {.gpu = 10 * kMiB, .pinned = 8 * kMiB});
  EXPECT_EQ(plan.slots, 0u);
  EXPECT_EQ(plan.copied_bytes, 0u);
}

TEST(Plan, MakesAsManySlotsAsItIsTold) {
  const LayerTable model = table(10, kMiB, 2 * kMiB);
  const Plan plan = make_plan(model, {.gpu = 8 * kMiB, .pinned = 8 * kMiB}, {}, {.max_slots = 6});
  EXPECT_EQ(plan.slots, 6u);
  EXPECT_EQ(plan.resident_bytes, 0u);
}

TEST(Plan, NeverUsesMoreThanTheBudget) {
  const LayerTable model = table(7, 3 * kMiB + 17, kMiB + 5, 8);
  const Budget least = make_plan(model, {.gpu = 1u << 30, .pinned = 1u << 30}).minimum;
  for (std::uint64_t extra = 0; extra < 40 * kMiB; extra += 1'234'567) {
    const Budget budget{.gpu = least.gpu + extra, .pinned = least.pinned + extra};
    const Plan plan = make_plan(model, budget);
    EXPECT_LE(plan.used.gpu, budget.gpu);
    EXPECT_LE(plan.used.pinned, budget.pinned);
    EXPECT_TRUE(plan.slots >= 1 || plan.streamed_layers() == 0);
    EXPECT_GE(plan.ring.blocks, 2u);
  }
}

TEST(Plan, SaysForEachTierWhatItNeedsAtLeast) {
  const LayerTable model = table(3, 4 * kMiB, kMiB);
  expect_throws(
      Errc::kBudgetTooSmall,
      HasSubstr("budget too small: gpu needs at least 5MiB (5242880 bytes) for 1.00 MiB outside the "
                "layers and a slot of 4.00 MiB (l.0), has 1.00 MiB (1048576 bytes)"),
      [&] { make_plan(model, {.gpu = kMiB, .pinned = 2 * kMiB}); });
  expect_throws(
      Errc::kBudgetTooSmall,
      HasSubstr("pinned needs at least 2MiB (2097152 bytes) for 2 blocks of one read, has 2.00 MiB (2097151 "
                "bytes)"),
      [&] { make_plan(model, {.gpu = 5 * kMiB, .pinned = 2 * kMiB - 1}); });
  const Plan plan = make_plan(model, Budget::parse("gpu=5MiB,pinned=2MiB"));
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
  LayerTable model = table(4, 64 * kMiB, 0);
  model.files[0].info.is_local_file = true;
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 128 * kMiB}).ring.block_bytes, 8 * kMiB);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 64 * kMiB}).ring.block_bytes, 4 * kMiB);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 9 * kMiB}).ring.block_bytes, kMiB);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 2 * kMiB}).ring.block_bytes, kMiB);
  EXPECT_EQ(make_plan(model, {.gpu = 64 * kMiB, .pinned = 1u << 30}).ring.bytes(), 256 * kMiB);
}

TEST(Plan, TakesNoMoreRingThanAPassCanFill) {
  const Plan plan = make_plan(table(4, kMiB, 0), {.gpu = kMiB, .pinned = 64 * kMiB});
  EXPECT_EQ(plan.ring.blocks, 4u);
  EXPECT_EQ(make_plan(table(1, kMiB, 0), {.gpu = kMiB, .pinned = 64 * kMiB}).ring.blocks, 2u);
}

TEST(Plan, BoundsAPassByItsSlowestLink) {
  const LayerTable model = table(4, 64 * kMiB, 0);
  const Budget budget{.gpu = 64 * kMiB, .pinned = 64 * kMiB};
  const Plan disk = make_plan(model, budget, {.disk = 64.0 * kMiB, .host_to_device = 256.0 * kMiB});
  EXPECT_DOUBLE_EQ(disk.bound_seconds, 4.0);
  EXPECT_EQ(disk.binding, "disk");
  const Plan copy = make_plan(model, budget, {.disk = 64.0 * kMiB, .host_to_device = 32.0 * kMiB});
  EXPECT_DOUBLE_EQ(copy.bound_seconds, 8.0);
  EXPECT_EQ(copy.binding, "host to device");
}

TEST(Plan, RefusesAModelWithoutLayersAndOptionsThatMakeNoSense) {
  expect_throws(Errc::kInvalidArgument, HasSubstr("no layers"), [&] { make_plan(table(0, 0, kMiB), {}); });
  const LayerTable model = table(2, kMiB, 0);
  expect_throws(Errc::kInvalidArgument, HasSubstr("max_slots"),
                [&] { make_plan(model, {.gpu = kMiB, .pinned = 2 * kMiB}, {}, {.max_slots = 0}); });
  expect_throws(Errc::kInvalidArgument, HasSubstr("chunk_bytes=3"),
                [&] { make_plan(model, {.gpu = kMiB, .pinned = 2 * kMiB}, {}, {.chunk_bytes = 3}); });
  const std::array<double, 3> seconds{};
  expect_throws(Errc::kInvalidArgument, HasSubstr("3 entries for 2 layers"),
                [&] { make_plan(model, {.gpu = kMiB, .pinned = 2 * kMiB}, {}, {.layer_seconds = seconds}); });
}

TEST(Plan, KeepsThePagesOfFilesOnly) {
  LayerTable model = table(4, 8 * kMiB, 0);
  const Budget budget{.gpu = 31 * kMiB, .pinned = 8 * kMiB, .page_cache = 16 * kMiB};
  EXPECT_EQ(make_plan(model, budget).used.page_cache, 0u);
  model.files[0].info.is_local_file = true;
  const Plan plan = make_plan(model, budget);
  EXPECT_EQ(plan.used.page_cache, 16 * kMiB);
  EXPECT_EQ(plan.disk_bytes, 16 * kMiB);
  EXPECT_EQ(plan.copied_bytes, 32 * kMiB) << "also what is cached";
}

TEST(Plan, OnTheHostUsesTensorsWhereTheyAreMapped) {
  LayerTable model = table(4, 8 * kMiB, kMiB);
  model.files[0].info.is_local_file = true;
  const Budget budget{.gpu = kMiB, .pinned = 8 * kMiB, .page_cache = 64 * kMiB};
  const Plan plan = make_plan(model, budget, {}, {.reads_land = true, .is_host = true});
  EXPECT_EQ(plan.slots, 0u);
  EXPECT_EQ(plan.disk_bytes + plan.copied_bytes, 0u);
  for (const std::uint64_t mapped : plan.mapped) EXPECT_EQ(mapped, 8 * kMiB);
  EXPECT_EQ(plan.minimum.gpu, kMiB) << "nothing needs a slot";
}

TEST(Plan, OnTheHostKeepsHardlyMoreThanTheTensorsItUsesInPlace) {
  constexpr std::uint64_t kTensorBytes = 5 * kMiB / 2 + 64;
  LayerTable model;
  std::uint64_t offset = 0;
  for (int i = 0; i < 16; ++i) {
    Layer& layer = model.layers.emplace_back(Layer{fmt::format("l.{}", i), {}});
    for (int t = 0; t < 8; ++t, offset += kTensorBytes) {
      layer.tensors.push_back(
          {fmt::format("t{}", t), DType::kU8, {kTensorBytes}, kTensorBytes, FileExtent{0, offset}});
    }
  }
  model.files.push_back(
      {"f", {.bytes = offset, .offset_alignment = 512, .memory_alignment = 512, .is_local_file = true}});
  const Plan plan = make_plan(model, {.gpu = 8 * kTensorBytes, .pinned = 8 * kMiB, .page_cache = offset / 2},
                              {}, {.reads_land = true, .is_host = true});
  EXPECT_LE(plan.disk_bytes, offset * 54 / 100);
}

TEST(Plan, PredictsLayerByLayer) {
  const LayerTable model = table(4, 64 * kMiB, 0);
  const LinkRates rates{.disk = 64.0 * kMiB, .host_to_device = 256.0 * kMiB};
  const std::array<double, 4> seconds{0.5, 0.5, 0.5, 0.5};
  const PlanOptions options{.layer_seconds = seconds};
  const auto predicted = [&](std::uint64_t slots) {
    return make_plan(model, {.gpu = slots * 64 * kMiB, .pinned = 64 * kMiB}, rates, options)
        .predicted_seconds;
  };
  EXPECT_DOUBLE_EQ(predicted(1), 4 * (1 + 1.0 / 256 + 0.5))
      << "one slot: reading, copying the last bytes and computing take turns";
  EXPECT_DOUBLE_EQ(predicted(2), 4.0) << "the disk is never idle";
}

// --- Properties of plans for models of all kinds ---

/// Layers of different sizes, tensors tied, overlapping, in memory, without a byte; several files.
LayerTable random_table(std::mt19937_64& random) {
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  static const std::vector<std::byte> memory(1 << 20);
  LayerTable result;
  const std::size_t files = 1 + below(3);
  std::vector<std::uint64_t> ends(files, below(2) * below(5000));
  const auto fill = [&](Layer& layer) {
    for (std::uint64_t i = 0, count = below(9); i < count; ++i) {
      const std::uint64_t bytes = below(12) == 0 ? 0 : below(2) == 0 ? 64 * below(2000) : below(300'000);
      TensorSpec tensor{fmt::format("t{}", i), DType::kU8, {static_cast<std::int64_t>(bytes)}, bytes, {}};
      const auto file = static_cast<std::uint32_t>(below(files));
      if (below(10) == 0) {
        tensor.source = memory.data() + below(1000);
      } else if (below(10) == 0 && !layer.tensors.empty()) {
        tensor = layer.tensors[below(layer.tensors.size())];  // tied
      } else {
        const std::uint64_t back = below(10) == 0 ? std::min<std::uint64_t>(ends[file], below(4000)) : 0;
        tensor.source = FileExtent{file, ends[file] - back};
        ends[file] = std::max(ends[file], ends[file] - back + bytes);
      }
      layer.tensors.push_back(std::move(tensor));
    }
  };
  for (std::uint64_t i = 0, count = 1 + below(12); i < count; ++i) {
    fill(result.layers.emplace_back(Layer{fmt::format("l.{}", i), {}}));
  }
  fill(result.outside);
  for (std::size_t i = 0; i < files; ++i) {
    result.files.push_back({fmt::format("f{}", i),
                            {.bytes = ends[i] + 1,
                             .offset_alignment = 512,
                             .memory_alignment = 512,
                             .is_local_file = below(4) != 0,
                             .version = {}}});
  }
  return result;
}

class PlanProperties : public ::testing::TestWithParam<int> {
 protected:
  PlanOptions random_options() {
    return {.reads_land = random_() % 2 == 0,
            .is_host = random_() % 2 == 0,
            .allocation_bytes = std::uint64_t{4096} << random_() % 6,
            .max_slots = 1 + static_cast<std::uint32_t>(random_() % 4),
            .request_bytes = 1 << 16,
            .max_block_bytes = 1 << 18,
            .max_ring_bytes = 1 << 20,
            .chunk_bytes = 1 << 16,
            .layer_seconds = {}};
  }
  Budget minimum(const PlanOptions& options) {
    // Nothing kept in host memory: what is used in place there needs no slot.
    return make_plan(table_, {.gpu = 1u << 30, .pinned = 2 * options.request_bytes}, {}, options).minimum;
  }

  std::mt19937_64 random_{static_cast<std::uint64_t>(GetParam())};
  LayerTable table_ = random_table(random_);
};
INSTANTIATE_TEST_SUITE_P(Seeds, PlanProperties, ::testing::Range(1, 200));

TEST_P(PlanProperties, NoBudgetIsExceededAndTheMinimumIsEnough) {
  const PlanOptions options = random_options();
  const Budget least = minimum(options);
  for (int i = 0; i < 20; ++i) {
    const Budget budget{.gpu = least.gpu + random_() % 4'000'000 * (i != 0),
                        .pinned = least.pinned + random_() % 3'000'000 * (i != 0),
                        .page_cache = random_() % 4'000'000 * (i != 0)};
    const Plan plan = make_plan(table_, budget, {}, options);
    EXPECT_LE(plan.used.gpu, budget.gpu);
    EXPECT_LE(plan.used.pinned, budget.pinned);
    EXPECT_LE(plan.used.page_cache, budget.page_cache);
    EXPECT_EQ(plan.used.gpu, plan.outside.slot_bytes + plan.resident_bytes + plan.slots * plan.slot_bytes);
    EXPECT_TRUE(plan.slots >= 1 || plan.streamed_layers() == 0);
  }
  if (least.gpu == 0) return;
  const Budget less{.gpu = least.gpu - 1, .pinned = least.pinned};
  expect_throws(Errc::kBudgetTooSmall, HasSubstr("gpu needs at least"),
                [&] { make_plan(table_, less, {}, options); });
}

TEST_P(PlanProperties, MoreBytesAreNeverSlowerAndKeepWhatFewerKept) {
  const PlanOptions options = random_options();
  const LinkRates rates{.disk = 1e9, .host_to_device = 3e9};
  Budget budget = minimum(options);
  budget.pinned +=
      options.max_ring_bytes;  // gaps are read or not as blocks are cut: other rings, other bytes
  std::optional<Plan> before;
  for (int i = 0; i < 40; ++i) {
    const Plan plan = make_plan(table_, budget, rates, options);
    if (before) {
      EXPECT_LE(plan.disk_bytes, before->disk_bytes);
      EXPECT_LE(plan.predicted_seconds, before->predicted_seconds * (1 + 1e-9));
      if (!options.is_host) {
        for (std::size_t layer = 0; layer < plan.homes.size(); ++layer) {
          for (std::size_t t = 0; t < plan.homes[layer].size(); ++t) {
            if (before->homes[layer][t] == TensorHome::kResident) {
              EXPECT_EQ(plan.homes[layer][t], TensorHome::kResident);
            }
          }
        }
      }
    }
    before = plan;
    std::uint64_t Budget::*const tier =
        std::array{&Budget::gpu, &Budget::page_cache, &Budget::pinned}[random_() % 3];
    budget.*tier += random_() % 400'000;
  }
}

TEST_P(PlanProperties, GivenWhatAPlanUsesAnotherOneIsAsGood) {
  const PlanOptions options = random_options();
  const LinkRates rates{.disk = 1e9, .host_to_device = 3e9};
  const Budget least = minimum(options);
  for (int i = 0; i < 20; ++i) {
    const Budget budget{.gpu = least.gpu + random_() % 4'000'000,
                        .pinned = least.pinned + options.max_ring_bytes + random_() % 3'000'000,
                        .page_cache = random_() % 4'000'000 * (i % 2)};
    const Plan plan = make_plan(table_, budget, rates, options);
    // On the host, pages are kept before residents are chosen and again after: what those need no longer
    // goes to more pages, which the bytes used do not tell.
    if (options.is_host && !plan.kept.empty()) continue;
    Budget only_gpu = budget;
    only_gpu.gpu = plan.used.gpu;
    for (const Budget& given : {only_gpu, plan.used}) {
      const Plan again = make_plan(table_, given, rates, options);
      EXPECT_EQ(again.used.gpu, plan.used.gpu);
      EXPECT_EQ(again.used.page_cache, plan.used.page_cache);
      EXPECT_LE(again.used.pinned, plan.used.pinned);
      EXPECT_EQ(again.homes, plan.homes);
      EXPECT_LE(again.disk_bytes, plan.disk_bytes);
      EXPECT_LE(again.predicted_seconds, plan.predicted_seconds * (1 + 1e-9));
    }
  }
}

TEST_P(PlanProperties, EveryByteComesFromExactlyOnePlace) {
  const PlanOptions options = random_options();
  Budget budget = minimum(options);
  budget.gpu += random_() % 2'000'000;
  budget.page_cache = random_() % 2'000'000;
  const Plan plan = make_plan(table_, budget, {}, options);
  const SortedTensors sorted(table_);
  const std::vector<ResidentCandidate> order = resident_order(sorted);
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    for (const TensorHome home : {TensorHome::kSlot, TensorHome::kResident}) {
      const LayerLayout& layout = home == TensorHome::kSlot ? plan.layers[i] : plan.residents[i];
      std::vector<int> writes(layout.slot_bytes);
      const auto write = [&](std::uint64_t offset, std::uint64_t bytes) {
        ASSERT_LE(offset + bytes, writes.size());
        for (std::uint64_t at = offset; at < offset + bytes; ++at) ++writes[at];
      };
      for (const FileRead& read : layout.landings) write(read.target_offset, read.bytes);
      for (const BlockCopy& copy : layout.block_copies) write(copy.slot_offset, copy.bytes);
      for (const MemoryCopy& copy : layout.memory_copies) write(copy.slot_offset, copy.bytes);
      for (const MappedCopy& copy : layout.mapped_copies) {
        write(copy.slot_offset, copy.bytes);
        EXPECT_TRUE(plan.kept.covers(copy.file, copy.offset, copy.offset + copy.bytes));
      }
      const std::vector<TensorSpec>& tensors = table_.layers[i].tensors;
      std::uint64_t resident_bytes = 0;
      for (const ResidentCandidate tied : order) {
        const SortedTensor& tensor = tied.front();
        if (tensor.layer != i || plan.homes[i][tensor.tensor] != TensorHome::kResident) continue;
        resident_bytes += make_layer_layout({"", {tensors[tensor.tensor]}}, table_.files, plan.rules,
                                            {.home = TensorHome::kResident})
                              .slot_bytes;
      }
      EXPECT_EQ(plan.residents[i].slot_bytes, resident_bytes);
      for (std::size_t t = 0; t < tensors.size(); ++t) {
        if (plan.homes[i][t] != home) continue;
        const auto begin = writes.begin() + static_cast<std::ptrdiff_t>(layout.tensor_offsets[t]);
        EXPECT_EQ(std::count(begin, begin + static_cast<std::ptrdiff_t>(tensors[t].bytes), 1),
                  static_cast<std::ptrdiff_t>(tensors[t].bytes))
            << table_.layers[i].full_name(tensors[t]);
      }
    }
  }
}

TEST_P(PlanProperties, WhatLeasesHoldIsPartOfThePlanWhateverTheBudget) {
  PlanOptions options = random_options();
  Budget budget = minimum(options);
  budget.gpu += random_() % 2'000'000;
  budget.page_cache = random_() % 2'000'000;
  const Plan before = make_plan(table_, budget, {}, options);
  TensorHomes held = all_streamed(table_);
  for (std::size_t layer = 0; layer < held.size(); ++layer) {
    if (random_() % 3 == 0) held[layer] = before.homes[layer];
  }
  options.held = &held;
  const Budget plenty{.gpu = 1u << 30, .pinned = 1u << 30, .page_cache = 1u << 30};
  Budget least = make_plan(table_, plenty, {}, options).minimum;
  // No more kept than leases hold: on the host, what is used in place needs no slot.
  least.pinned += 2 * options.request_bytes;
  least = make_plan(table_, {.gpu = 1u << 30, .pinned = least.pinned, .page_cache = least.page_cache}, {},
                    options)
              .minimum;
  for (const std::uint64_t more : {std::uint64_t{0}, random_() % 3'000'000}) {
    const Budget next{.gpu = least.gpu + more, .pinned = least.pinned, .page_cache = least.page_cache + more};
    const Plan plan = make_plan(table_, next, {}, options);
    EXPECT_LE(plan.used.gpu, next.gpu);
    EXPECT_LE(plan.used.page_cache, next.page_cache);
    for (std::size_t layer = 0; layer < held.size(); ++layer) {
      for (std::size_t i = 0; i < held[layer].size(); ++i) {
        EXPECT_TRUE(held[layer][i] == TensorHome::kSlot || plan.homes[layer][i] == held[layer][i]);
      }
    }
  }
  if (least.page_cache == 0) return;
  const Budget less{.gpu = least.gpu, .pinned = least.pinned, .page_cache = least.page_cache - 1};
  expect_throws(Errc::kBudgetTooSmall, HasSubstr("page_cache needs at least"),
                [&] { make_plan(table_, less, {}, options); });
}

TEST(Plan, CountsWhatAnAllocationOfItsOwnTakesForEachResident) {
  const LayerTable model = table(4, 3 * kMiB, 0);
  const PlanOptions options{.allocation_bytes = 2 * kMiB, .layer_seconds = {}};
  const Plan plan = make_plan(model, {.gpu = 3 * 3 * kMiB + 8 * kMiB, .pinned = 8 * kMiB}, {}, options);
  EXPECT_EQ(plan.resident_bytes, 4 * 4 * kMiB);
  EXPECT_EQ(
      make_plan(model, {.gpu = 3 * 3 * kMiB + 3 * kMiB, .pinned = 8 * kMiB}, {}, options).resident_bytes, 0u);
}

TEST(Plan, SpreadsResidencyEvenlyOverTheLayers) {
  // Twelve layers of eight tensors of 1 MiB; half of each tier's worth resident.
  LayerTable model;
  std::uint64_t offset = 0;
  for (int i = 0; i < 12; ++i) {
    Layer& layer = model.layers.emplace_back(Layer{fmt::format("l.{}", i), {}});
    for (int t = 0; t < 8; ++t, offset += kMiB) {
      layer.tensors.push_back({fmt::format("t{}", t), DType::kU8, {1 << 20}, kMiB, FileExtent{0, offset}});
    }
  }
  model.files.push_back(
      {"f", {.bytes = offset, .offset_alignment = 512, .memory_alignment = 512, .is_local_file = true}});
  const Plan plan =
      make_plan(model, {.gpu = (3 * 6 + 30) * kMiB, .pinned = 8 * kMiB, .page_cache = 12 * 4 * kMiB});
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const auto resident = std::ranges::count(plan.homes[i], TensorHome::kResident);
    EXPECT_GE(resident, 2) << i;
    EXPECT_LE(resident, 3) << i;
    EXPECT_EQ(plan.layers[i].mapped_bytes(), 4 * kMiB) << i;
  }
  // Those that are ahead lie apart.
  for (std::size_t i = 0; i + 2 < plan.layers.size(); ++i) {
    std::ptrdiff_t sum = 0;
    for (std::size_t j = i; j < i + 3; ++j) sum += std::ranges::count(plan.homes[j], TensorHome::kResident);
    EXPECT_GE(sum, 6);
    EXPECT_LE(sum, 8);
  }
}

}  // namespace
}  // namespace tierstream
