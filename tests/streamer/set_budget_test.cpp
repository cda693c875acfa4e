#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "small_model.h"
#include "support/byte_units.h"
#include "support/test_files.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using ::testing::HasSubstr;

/// A model in a file, through the ring and with reads that land.
class SetBudgetTest : public ::testing::TestWithParam<bool> {
 protected:
  SetBudgetTest() {
    // The file was just written: other ways of reading would find some of it in the page cache.
    model_.table.open_storage = [] { return make_file_backend({.cache = CacheUse::kBuffered}); };
    const std::unique_ptr<StorageBackend> storage = model_.table.open_storage();
    model_.table.files = {{path_, storage->info(storage->open(path_))}};
  }

  Streamer make(const Budget& budget) {
    return {model_.table,
            {.device = make_cpu_device({.reads_land = GetParam()}), .budget = budget, .warn = {}}};
  }
  /// `layers` layers' worth of device memory beside the outside.
  Budget budget_of(std::uint64_t layers, std::uint64_t page_cache = 0) const {
    return {.gpu = kMiB + 8192 + layers * (3 * kMiB + 32768), .pinned = 4 * kMiB, .page_cache = page_cache};
  }
  void walk(Streamer& streamer) {
    for (const Lease& layer : streamer.pass()) EXPECT_TRUE(model_.has_right_bytes(layer)) << layer.index();
  }

  /// By layer and tensor.
  std::map<std::pair<std::size_t, std::size_t>, const std::byte*> resident_addresses(Streamer& streamer) {
    std::map<std::pair<std::size_t, std::size_t>, const std::byte*> addresses;
    for (std::size_t layer = 0; layer < kLayers; ++layer) {
      for (std::size_t i = 0; i < SmallModel::kTensors; ++i) {
        if (streamer.plan().homes[layer][i] != TensorHome::kResident) continue;
        addresses[{layer, i}] = streamer.acquire(layer).tensor(i).data;
      }
    }
    return addresses;
  }

  static constexpr std::size_t kLayers = 6;
  /// What reads take beside the bytes of tensors.
  static constexpr std::uint64_t kAlignment = kLayers * SmallModel::kTensors * 2 * 4096;
  SmallModel model_{kLayers, kMiB, GetParam() ? 0u : 8u};
  const TemporaryDirectory directory_;
  const std::string path_ = directory_.write("model", model_.content_of("model"));
};
INSTANTIATE_TEST_SUITE_P(, SetBudgetTest, ::testing::Bool(), name_of_mode);

TEST_P(SetBudgetTest, GrowsAndShrinksBetweenPasses) {
  Streamer streamer = make(budget_of(1));
  walk(streamer);
  for (const std::uint64_t layers : {6u, 2u, 4u, 1u}) {
    EXPECT_EQ(streamer.set_budget(budget_of(layers)), Budget{}) << "no lease is out";
    EXPECT_LE(streamer.plan().used.gpu, budget_of(layers).gpu);
    walk(streamer);
    walk(streamer);
    EXPECT_LE(streamer.stats().last_pass.bytes.disk, streamer.plan().disk_bytes);
  }
  EXPECT_EQ(streamer.stats().passes, 9u);
  EXPECT_EQ(streamer.generation(), 5u);
}

TEST_P(SetBudgetTest, ReadsOnlyTheResidentsThatTheLargerBudgetAdds) {
  Streamer streamer = make(budget_of(4));
  walk(streamer);
  for (const std::uint64_t layers : {5u, 4u, 6u, 5u, 5u, 3u}) {
    const std::uint64_t resident_before = streamer.plan().resident_bytes;
    streamer.set_budget(budget_of(layers));
    walk(streamer);
    const Plan& plan = streamer.plan();
    const std::uint64_t added = plan.resident_bytes - std::min(plan.resident_bytes, resident_before);
    const std::uint64_t read = streamer.stats().last_pass.bytes.disk;
    EXPECT_GE(read, plan.streamed_bytes + added * 99 / 100) << layers;
    EXPECT_LE(read, plan.streamed_bytes + added + kAlignment) << layers;
  }
}

TEST_P(SetBudgetTest, LeavesResidentsWhereTheyAre) {
  Streamer streamer = make(budget_of(4));
  walk(streamer);
  const auto before = resident_addresses(streamer);
  EXPECT_GE(before.size(), 2u);
  streamer.set_budget(budget_of(5));
  const auto after = resident_addresses(streamer);
  EXPECT_GT(after.size(), before.size());
  for (const auto& [tensor, data] : before) EXPECT_EQ(after.at(tensor), data);
  walk(streamer);
}

TEST_P(SetBudgetTest, WhatALeaseUsesStaysInThePlanUntilItsEnd) {
  Streamer streamer = make(budget_of(5));
  walk(streamer);
  const auto before = resident_addresses(streamer);
  const std::size_t layer = before.begin()->first.first;
  std::optional<Lease> held = streamer.acquire(layer);
  const Budget outstanding = streamer.set_budget(budget_of(3));
  EXPECT_LE(outstanding.gpu + streamer.plan().used.gpu, budget_of(3).gpu);
  EXPECT_TRUE(model_.has_right_bytes(*held));
  std::size_t kept = 0;
  for (const auto& [tensor, data] : resident_addresses(streamer)) {
    kept += tensor.first == layer ? 1u : 0u;
    EXPECT_EQ(data, before.at(tensor));
  }
  EXPECT_EQ(kept, static_cast<std::size_t>(std::ranges::count_if(
                      before, [&](const auto& place) { return place.first.first == layer; })));
  EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(layer)));
  const std::uint64_t generation = streamer.generation();
  held.reset();
  walk(streamer);
  EXPECT_EQ(streamer.generation(), generation + 1) << "planned anew, with all of the budget";
  EXPECT_EQ(streamer.plan().homes, make(budget_of(3)).plan().homes);
  walk(streamer);
}

TEST_P(SetBudgetTest, MovesBytesBetweenTheTiers) {
  Streamer streamer = make(budget_of(3));
  walk(streamer);
  streamer.set_budget(budget_of(3, 9 * kMiB));
  walk(streamer);
  walk(streamer);
  EXPECT_GT(streamer.stats().last_pass.bytes.page_cache, 6 * kMiB);
  streamer.set_budget(budget_of(3));
  walk(streamer);
  EXPECT_EQ(streamer.stats().last_pass.bytes.page_cache, 0u);
}

TEST_P(SetBudgetTest, TensorsOutsideTheLayersStayWhereTheyAre) {
  Streamer streamer = make(budget_of(2));
  const TensorView before = streamer.outside("embedding");
  streamer.set_budget(budget_of(5));
  const TensorView after = streamer.outside("embedding");
  EXPECT_EQ(after.data, before.data);
  EXPECT_TRUE(model_.has_right_bytes(after));
}

TEST_P(SetBudgetTest, LeasesKeepTheirBytesAndSayWhatTheyHold) {
  Streamer streamer = make(budget_of(3));
  std::optional<Lease> held = streamer.acquire(1);
  const Budget outstanding = streamer.set_budget(budget_of(2));
  EXPECT_GE(outstanding.gpu, 3 * kMiB);
  EXPECT_LT(outstanding.gpu, 4 * kMiB) << "its slot alone";
  EXPECT_EQ(outstanding.pinned, 0u);
  EXPECT_TRUE(model_.has_right_bytes(*held));
  EXPECT_EQ(streamer.plan().slots, 1u) << "the other slot's bytes are still taken";
  EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(4)));
  EXPECT_NE(held->generation(), streamer.generation());
  held.reset();
  walk(streamer);  // with all of the budget again
  EXPECT_EQ(streamer.plan().slots, 2u);
}

TEST_P(SetBudgetTest, WithoutRoomBesideTheLeasesNothingIsStagedUntilTheyEnd) {
  Streamer streamer = make(budget_of(2));
  std::optional<Lease> held = streamer.acquire(0);
  streamer.set_budget(budget_of(1));
  expect_throws(Errc::kTooManyLeases, HasSubstr("before the budget was changed"),
                [&] { (void)streamer.acquire(1); });
  expect_throws(Errc::kLeasesOutstanding, HasSubstr("end it before close()"), [&] { streamer.close(); });
  held.reset();
  EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(1)));
  walk(streamer);
  streamer.close();
}

TEST_P(SetBudgetTest, WhatItKeepsMayBeAskedForWhileAPassBeginsWithAllOfIt) {
  for (int i = 0; i < 20; ++i) {
    Streamer streamer = make(budget_of(3, 4 * kMiB));
    std::optional<Lease> lease(streamer.acquire(0));
    streamer.set_budget(budget_of(3, 8 * kMiB));
    lease.reset();
    const std::jthread asking([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        (void)streamer.page_cache_status();
        (void)streamer.ram_weights_status();
      }
    });
    walk(streamer);
  }
}

TEST_P(SetBudgetTest, MayBeCalledWithinAPass) {
  Streamer streamer = make(budget_of(2));
  std::size_t seen = 0;
  for (Lease layer : streamer.pass()) {
    EXPECT_EQ(layer.index(), seen++);
    EXPECT_TRUE(model_.has_right_bytes(layer));
    if (seen == 3) streamer.set_budget(budget_of(4));
    EXPECT_TRUE(model_.has_right_bytes(layer)) << "also after the change";
  }
  EXPECT_EQ(seen, 6u);
  EXPECT_EQ(streamer.stats().last_pass.layers, 6u);
}

TEST_P(SetBudgetTest, ABudgetThatIsTooSmallChangesNothing) {
  Streamer streamer = make(budget_of(2));
  walk(streamer);
  expect_throws(Errc::kBudgetTooSmall, HasSubstr("gpu needs at least"),
                [&] { streamer.set_budget({.gpu = kMiB, .pinned = 4 * kMiB}); });
  EXPECT_EQ(streamer.generation(), 1u);
  walk(streamer);
}

TEST_P(SetBudgetTest, ALeaseKeepsItsBytesThroughParkAndResume) {
  for (const std::uint64_t layers : {2u, 3u, 30u}) {
    const Budget after = budget_of(layers, 6 * kMiB);
    Streamer streamer = make(budget_of(30, 6 * kMiB));
    walk(streamer);
    std::optional<Lease> held = streamer.acquire(1);  // all of it stays on the device
    (void)streamer.park();
    streamer.set_budget(after);
    streamer.resume();
    for (const std::size_t layer : {0u, 2u, 5u}) EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(layer)));
    EXPECT_TRUE(model_.has_right_bytes(*held));
    const std::vector<std::byte> other = pattern_bytes(7, kMiB);
    const std::array changes{TensorChange{1, 2, DType::kU8, {kMiB}, kMiB, other.data()}};
    expect_throws(Errc::kLeasesOutstanding, HasSubstr("end them before tensors are replaced"),
                  [&] { streamer.replace(changes); });
    held.reset();
    walk(streamer);
    EXPECT_LE(streamer.plan().used.gpu, after.gpu);
  }
}

TEST_P(SetBudgetTest, ParkingGivesEverythingBackUntilResume) {
  Streamer streamer = make(budget_of(2, 6 * kMiB));
  walk(streamer);
  EXPECT_EQ(streamer.park(), Budget{});
  expect_throws(Errc::kClosed, HasSubstr("parked"), [&] { (void)streamer.acquire(0); });
  expect_throws(Errc::kClosed, HasSubstr("parked"), [&] { (void)streamer.pass(); });
  EXPECT_EQ(streamer.stats().passes, 1u);
  streamer.set_budget(budget_of(3));
  streamer.resume();
  streamer.resume();
  walk(streamer);
  EXPECT_TRUE(model_.has_right_bytes(streamer.outside("embedding")));
  EXPECT_EQ(streamer.plan().used.page_cache, 0u);
  (void)streamer.park();
  streamer.close();
  expect_throws(Errc::kClosed, HasSubstr("closed"), [&] { streamer.set_budget(budget_of(1)); });
}

TEST_P(SetBudgetTest, LeasesMayEndOnOtherThreadsMeanwhile) {
  Streamer streamer = make(budget_of(3));
  std::mt19937 random(7);
  for (int round = 0; round < 30; ++round) {
    std::vector<Lease> leases;
    leases.push_back(streamer.acquire(random() % 6));
    std::jthread ending([held = std::move(leases)]() mutable { held.clear(); });
    streamer.set_budget(budget_of(1 + random() % 4, random() % 2 * 6 * kMiB));
    ending.join();
    EXPECT_TRUE(model_.has_right_bytes(streamer.acquire(random() % 6)));
  }
}

TEST_P(SetBudgetTest, ReplacesTensorsByMemoryOfAnotherSizeForAllLaterPasses) {
  const std::vector<std::byte> larger = pattern_bytes(7, 2 * kMiB);
  const std::vector<std::byte> smaller = pattern_bytes(8, 1000);
  for (const std::size_t slots : {2u, 40u}) {  // all streamed, all resident
    Streamer streamer = make(budget_of(slots));
    walk(streamer);
    const std::array changes{TensorChange{1, 2, DType::kU8, {2 * kMiB}, 2 * kMiB, larger.data()},
                             TensorChange{4, 0, DType::kU8, {1000}, 1000, smaller.data()}};
    {
      const Lease lease = streamer.acquire(1);
      EXPECT_EQ(thrown_by([&] { streamer.replace(changes); }).errc, Errc::kLeasesOutstanding);
    }
    const std::uint64_t generation = streamer.generation();
    streamer.replace(changes);
    EXPECT_EQ(streamer.generation(), generation + 1);
    for (int pass = 0; pass < 2; ++pass) {
      for (const Lease& layer : streamer.pass()) {
        for (std::size_t i = 0; i < layer.size(); ++i) {
          const TensorView view = layer.tensor(i);
          if (const auto* const memory = std::get_if<const std::byte*>(&view.spec->source)) {
            EXPECT_EQ(std::memcmp(view.data, *memory, view.spec->bytes), 0);
            EXPECT_EQ(view.spec->name, layer.index() == 1 ? "t2" : "t0");
          } else {
            EXPECT_TRUE(model_.has_right_bytes(view));
          }
        }
      }
    }
  }
}

TEST_P(SetBudgetTest, RefusesToReplaceWhatTheTableDoesNotHave) {
  Streamer streamer = make(budget_of(2));
  const std::uint64_t generation = streamer.generation();
  const std::uint64_t file_bytes = model_.table.files[0].info.bytes;
  const auto expect_refused = [&](const TensorChange& change, const char* why) {
    expect_throws(Errc::kInvalidArgument, HasSubstr(why), [&] { streamer.replace({&change, 1}); });
  };
  expect_refused({kLayers, 0, DType::kU8, {1000}, 1000, FileExtent{0, 0}}, "layer 6: there are 6");
  expect_refused({1, 3, DType::kU8, {1000}, 1000, FileExtent{0, 0}}, "tensor 3 of layers.1: there are 3");
  expect_refused({1, 2, DType::kU8, {1000}, 1000, FileExtent{1, 0}}, "layers.1.t2 by bytes of file 1");
  expect_refused({1, 2, DType::kU8, {1000}, 1000, FileExtent{0, file_bytes - 999}}, "the file ends at ");
  expect_refused({1, 2, DType::kU8, {1000}, 1000, FileExtent{0, ~std::uint64_t{0}}}, "the file ends at ");
  EXPECT_EQ(streamer.generation(), generation);
  walk(streamer);
}

TEST_P(SetBudgetTest, ChangesNothingWhenReplacedTensorsDoNotFit) {
  const std::vector<std::byte> large = pattern_bytes(7, 9 * kMiB);
  Streamer streamer = make(budget_of(1));
  const std::array changes{TensorChange{1, 2, DType::kU8, {9 * kMiB}, 9 * kMiB, large.data()}};
  EXPECT_EQ(thrown_by([&] { streamer.replace(changes); }).errc, Errc::kBudgetTooSmall);
  walk(streamer);
}

}  // namespace
}  // namespace tierstream
