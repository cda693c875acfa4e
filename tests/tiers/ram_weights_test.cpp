#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <tierstream/tiers/host_memory.h>
#include <tierstream/tiers/ram_weights.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "support/fake_device.h"
#include "support/test_files.h"

namespace tierstream::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kPage = 4096;

/// Two layers of two tensors, in page-aligned memory.
struct TwoLayers {
  HostMemory memory{16 * kPage};
  FakeDevice device;
  TierBudget pinned{"pinned", 1u << 20};
  LayerTable table;
  TensorHomes homes;

  std::span<const std::byte> at(std::size_t offset, std::size_t bytes) const {
    return memory.span().subspan(offset, bytes);
  }
  void add_layer(std::vector<std::span<const std::byte>> tensors) {
    Layer& layer = table.layers.emplace_back(Layer{fmt::format("l.{}", table.layers.size()), {}});
    for (const auto& tensor : tensors) {
      layer.tensors.push_back(
          {"t", DType::kU8, {static_cast<std::int64_t>(tensor.size())}, tensor.size(), tensor.data()});
    }
    homes.emplace_back(tensors.size(), TensorHome::kSlot);
  }
  RamWeights weights() { return RamWeights(table, homes, device, pinned); }
};

/// A file that is mapped for this process alone.
class PrivateMapping {
 public:
  explicit PrivateMapping(std::size_t bytes) : bytes_(bytes) {
    const std::string path = directory_.write("weights", pattern_bytes(1, bytes));
    const int file = ::open(path.c_str(), O_RDONLY);
    mapping_ = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    ::close(file);
    EXPECT_NE(mapping_, MAP_FAILED);
  }
  ~PrivateMapping() { ::munmap(mapping_, bytes_); }
  PrivateMapping(const PrivateMapping&) = delete;
  PrivateMapping& operator=(const PrivateMapping&) = delete;

  std::span<const std::byte> span() const { return {static_cast<const std::byte*>(mapping_), bytes_}; }

 private:
  TemporaryDirectory directory_;
  std::size_t bytes_;
  void* mapping_ = nullptr;
};

TEST(PageRanges, JoinTensorsThatShareAPageOrFollowEachOther) {
  const TwoLayers scene;
  const std::vector<PageRange> ranges = page_ranges({scene.at(9 * kPage, 10), scene.at(kPage + 5, kPage),
                                                     scene.at(3 * kPage, 100), scene.at(2 * kPage + 50, 10)});
  ASSERT_EQ(ranges.size(), 1u) << "what has no whole page is left out";
  EXPECT_EQ(ranges[0].pages.data(), scene.at(2 * kPage, 1).data());
  EXPECT_EQ(ranges[0].pages.size(), kPage) << "and so are pages that others have a part of";
  EXPECT_EQ(ranges[0].tensors.size(), 3u);
}

TEST(RamWeights, AreRegisteredWhereTheyLieAndCountAsPinned) {
  TwoLayers scene;
  scene.add_layer({scene.at(0, 100), scene.at(100, kPage)});
  scene.add_layer({scene.at(8 * kPage, kPage)});
  {
    const RamWeights weights = scene.weights();
    EXPECT_EQ(weights.registered_bytes(), 2 * kPage);
    EXPECT_EQ(scene.device.registered_bytes(), 2 * kPage);
    EXPECT_GE(scene.pinned.used_bytes(), 3 * kPage);
    EXPECT_EQ(weights.refusal(), "");
  }
  EXPECT_EQ(scene.device.registered_bytes(), 0u);
  EXPECT_EQ(scene.pinned.used_bytes(), 0u);
}

TEST(RamWeights, WhatStaysOnTheDeviceIsNotRegistered) {
  TwoLayers scene;
  scene.add_layer({scene.at(0, kPage), scene.at(8 * kPage, kPage)});
  scene.homes[0][1] = TensorHome::kResident;
  EXPECT_EQ(scene.weights().registered_bytes(), kPage);
}

TEST(RamWeights, GoAsFarAsThePinnedBudget) {
  TwoLayers scene;
  scene.pinned.set_limit(3 * kPage);
  for (std::size_t i = 0; i < 4; ++i) scene.add_layer({scene.at(4 * i * kPage, kPage)});
  const RamWeights weights = scene.weights();
  EXPECT_EQ(weights.registered_bytes(), 3 * kPage);
  EXPECT_THAT(weights.refusal(), HasSubstr("pinned budget"));
}

TEST(RamWeights, ARefusalIsKeptAndLeavesThemUsable) {
  TwoLayers scene;
  scene.add_layer({scene.at(0, kPage)});
  scene.device.refuse_registration("no more of that");
  const RamWeights weights = scene.weights();
  EXPECT_EQ(weights.registered_bytes(), 0u);
  EXPECT_EQ(weights.refusal(), "no more of that");
}

TEST(RamWeights, CopiesAreSplitAtTheEdgesOfWhatIsRegistered) {
  TwoLayers scene;
  scene.add_layer({scene.at(kPage, kPage)});
  const RamWeights weights = scene.weights();
  const std::byte* const begin = scene.memory.span().data();
  std::vector<MemoryCopy> copies{{begin + 100, 0, 3 * kPage}, {begin + kPage, 512, kPage}};
  weights.split_at_edges(copies);
  ASSERT_EQ(copies.size(), 4u);
  EXPECT_EQ(copies[0].bytes, kPage - 100);
  EXPECT_EQ(copies[1].source, begin + kPage);
  EXPECT_EQ(copies[1].slot_offset, kPage - 100);
  EXPECT_EQ(copies[1].bytes, kPage);
  EXPECT_EQ(copies[2].slot_offset + copies[2].bytes, 3 * kPage);
  EXPECT_EQ(copies[3].slot_offset, 512u);
  EXPECT_EQ(copies[3].bytes, kPage) << "inside: whole";
}

TEST(RamWeights, APrivateMappingOfAFileIsNeverRegistered) {
  const PrivateMapping mapping(4 * kPage);
  TwoLayers scene;
  scene.add_layer({mapping.span().first(100), scene.at(0, kPage)});
  const RamWeights weights = scene.weights();
  EXPECT_EQ(weights.registered_bytes(), kPage);
  EXPECT_THAT(weights.refusal(), HasSubstr("private mapping"));
}

TEST(RamWeights, APrivateMappingBeyondTheBudgetKeepsNoOtherFromBeingRegistered) {
  const PrivateMapping mapping(4 * kPage);
  TwoLayers scene;
  scene.pinned.set_limit(2 * kPage);
  scene.add_layer({mapping.span(), scene.at(0, kPage)});
  const RamWeights weights = scene.weights();
  EXPECT_EQ(weights.registered_bytes(), kPage);
  EXPECT_THAT(weights.refusal(), HasSubstr("private mapping"));
}

}  // namespace
}  // namespace tierstream::testing
