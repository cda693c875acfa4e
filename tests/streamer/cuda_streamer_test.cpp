#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cuda/cuda_device.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "small_model.h"
#include "support/byte_units.h"
#include "support/test_files.h"

namespace tierstream {
namespace {

/// The whole way to a GPU: bytes from disk, page cache and RAM, compared where they lie on the device at the
/// moment of use.
class CudaStreamerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = make_cuda_device(0);
    model_.table.open_storage = [] { return make_file_backend(); };
    const std::unique_ptr<StorageBackend> storage = model_.table.open_storage();
    model_.table.files = {{path_, storage->info(storage->open(path_))}};
  }

  static Budget budget(std::uint64_t gpu, std::uint64_t pinned = 8 * kMiB, std::uint64_t page_cache = 0) {
    return {.gpu = gpu, .pinned = pinned, .page_cache = page_cache};
  }
  void check(const Lease& lease, Stream stream = {}) {
    for (std::size_t i = 0; i < lease.size(); ++i) {
      const TensorView view = lease.tensor(i);
      std::vector<std::byte> landed(view.spec->bytes);
      device_->download(landed, view.data, stream);
      const auto* extent = std::get_if<FileExtent>(&view.spec->source);
      const std::byte* const expected = extent ? model_.content_of("model").data() + extent->offset
                                               : std::get<const std::byte*>(view.spec->source);
      EXPECT_EQ(std::memcmp(landed.data(), expected, landed.size()), 0) << lease.index() << ' ' << i;
    }
  }
  TierBytes walk(Streamer& streamer) {
    for (const Lease& lease : streamer.pass()) check(lease);
    return streamer.stats().last_pass.bytes;
  }
  std::uint64_t model_bytes() const { return kLayers * model_.layer_bytes(); }

  static constexpr std::size_t kLayers = 8;
  SmallModel model_{kLayers, 3 * kMiB, 8};
  const TemporaryDirectory directory_;
  const std::string path_ = directory_.write("model", model_.content_of("model"));
  std::shared_ptr<Device> device_;
};

TEST_F(CudaStreamerTest, EveryShareOfEveryTierGivesTheRightBytes) {
  for (const std::uint64_t residents : {0u, 20u, 100u}) {
    for (const std::uint64_t pages : {0u, 30u, 100u}) {
      Streamer streamer(model_.table, {.device = device_,
                                       .budget = budget((31 + residents) * kMiB, 8 * kMiB, pages * kMiB)});
      for (int pass = 0; pass < 3; ++pass) (void)walk(streamer);
      const TierBytes bytes = walk(streamer);
      EXPECT_TRUE(bytes.gpu > 0 || residents == 0);
      if (pages == 100 && residents == 0) {
        EXPECT_EQ(bytes.disk, 0u);
      }
      EXPECT_EQ(streamer.page_cache_status().registration_refusal, "");
      EXPECT_EQ(streamer.page_cache_status().registered_bytes, streamer.plan().used.page_cache);
      streamer.close();
    }
  }
}

TEST_F(CudaStreamerTest, WeightsInRamAreCopiedFromWhereTheyLie) {
  std::vector<std::vector<std::byte>> ram;
  for (Layer& layer : model_.table.layers) {
    for (TensorSpec& tensor : layer.tensors) {
      const auto* begin = model_.content_of("model").data() + std::get<FileExtent>(tensor.source).offset;
      ram.emplace_back(begin, begin + tensor.bytes);
      tensor.source = ram.back().data();
    }
  }
  for (const std::uint64_t pinned : {8u, 40u, 200u}) {
    Streamer streamer(model_.table, {.device = device_, .budget = budget(31 * kMiB, pinned * kMiB)});
    for (int pass = 0; pass < 2; ++pass) EXPECT_EQ(walk(streamer).pinned, model_bytes());
    const RamWeightsStatus status = streamer.ram_weights_status();
    if (pinned == 200) {
      constexpr std::uint64_t kPagesOfOthersToo = 2 * 4096;  // of each tensor, at most
      EXPECT_GE(status.registered_bytes + ram.size() * kPagesOfOthersToo, model_bytes());
      EXPECT_EQ(status.refusal, "");
    } else {
      EXPECT_LE(status.registered_bytes, pinned * kMiB);
      EXPECT_THAT(status.refusal, ::testing::HasSubstr("pinned budget"));
    }
  }
}

TEST_F(CudaStreamerTest, TheBudgetChangesWhileLeasesAreOutAndNothingIsLeft) {
  {
    Streamer first(model_.table,
                   {.device = device_, .budget = budget(60 * kMiB)});  // what CUDA takes for itself
    (void)walk(first);
  }
  std::size_t free_before = 0;
  std::size_t total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_before, &total), cudaSuccess);
  {
    Streamer streamer(model_.table, {.device = device_, .budget = budget(60 * kMiB)});
    std::mt19937 random(3);
    for (int round = 0; round < 20; ++round) {
      std::optional<Lease> held = streamer.acquire(random() % kLayers);
      streamer.set_budget(budget((30 + random() % 80) * kMiB, 8 * kMiB, random() % 2 * 40 * kMiB));
      check(*held);
      held.reset();
      (void)walk(streamer);
    }
    EXPECT_EQ(streamer.park(), Budget{});
    streamer.resume();
    (void)walk(streamer);
  }
  std::size_t free_after = 0;
  ASSERT_EQ(cudaMemGetInfo(&free_after, &total), cudaSuccess);
  // CUDA takes memory for events by 2 MiB; a slot or a generation that was left would be more.
  EXPECT_GE(free_after + 4 * kMiB, free_before);
}

TEST_F(CudaStreamerTest, TakesOfTheGpuItsBudgetAndNoMore) {
  const auto free_bytes = [] {
    std::size_t free = 0;
    std::size_t total = 0;
    EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    return free;
  };
  // For events and streams CUDA takes memory once, by 2 MiB, and keeps it.
  constexpr std::size_t kForCuda = 8 * kMiB;
  for (const std::uint64_t gpu : {31u, 60u, 400u}) {
    const std::size_t before = free_bytes();
    {
      Streamer streamer(model_.table, {.device = device_, .budget = budget(gpu * kMiB, 8 * kMiB, 40 * kMiB)});
      (void)walk(streamer);
      const std::size_t taken = before - std::min(before, free_bytes());
      EXPECT_LE(taken, streamer.plan().used.gpu + kForCuda);
      EXPECT_GE(taken + kForCuda, streamer.plan().used.gpu);
    }
    EXPECT_GE(free_bytes() + kForCuda, before);
  }
}

TEST_F(CudaStreamerTest, ShowsPoisonToWorkQueuedBehindALease) {
  Streamer streamer(model_.table, {.device = device_, .budget = budget(31 * kMiB), .poison = true});
  ASSERT_EQ(streamer.plan().resident_bytes, 0u);
  for (int pass = 0; pass < 2; ++pass) {
    TensorView kept{};
    for (const Lease& lease : streamer.pass({.last = true})) {  // after which no slot is filled again
      check(lease);
      kept = lease.tensor(lease.size() - 1);
    }
    ASSERT_NE(kept.spec, nullptr);
    std::vector<std::byte> seen(kept.spec->bytes);
    device_->download(seen, kept.data, Stream{});
    EXPECT_EQ(std::ranges::count(seen, kPoison), static_cast<std::ptrdiff_t>(seen.size()));
  }
}

}  // namespace
}  // namespace tierstream
