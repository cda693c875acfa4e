#include <fmt/format.h>
#include <gtest/gtest.h>
#include <tierstream/tiers/layer_layout.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

namespace tierstream {
namespace {

constexpr std::uint64_t kFileBytes = 4u << 20;

std::vector<SourceFile> files(std::uint32_t alignment, std::size_t count = 1) {
  return std::vector<SourceFile>(
      count,
      {"f",
       {.bytes = kFileBytes, .offset_alignment = alignment, .memory_alignment = alignment, .version = {}}});
}

TensorSpec tensor(std::uint64_t offset, std::uint64_t bytes, std::uint32_t file = 0) {
  return {"t", DType::kU8, {static_cast<std::int64_t>(bytes)}, bytes, FileExtent{file, offset}};
}

constexpr LayoutRules kRing{.block_bytes = 64 << 10, .request_bytes = 16 << 10};
constexpr LayoutRules kLanding{.block_bytes = 64 << 10, .request_bytes = 16 << 10, .reads_land = true};

TEST(LayerLayout, NeighboursThatKeepTheirAlignmentTravelAsOneCopy) {
  const Layer layer{"l", {tensor(8, 1024), tensor(1032, 512), tensor(1544, 256)}};
  const LayerLayout layout = make_layer_layout(layer, files(512), kRing);
  ASSERT_EQ(layout.fills.size(), 1u);
  ASSERT_EQ(layout.copies_of(0).size(), 1u);
  EXPECT_EQ(layout.copies_of(0)[0].block_offset, 8u);
  EXPECT_EQ(layout.copies_of(0)[0].bytes, 1792u);
  EXPECT_EQ(layout.tensor_offsets, (std::vector<std::uint64_t>{0, 1024, 1536}));
}

TEST(LayerLayout, ATensorThatWouldLoseItsAlignmentGetsACopyOfItsOwn) {
  const Layer layer{"l", {tensor(0, 100), tensor(100, 100)}};
  const LayerLayout layout = make_layer_layout(layer, files(512), kRing);
  EXPECT_EQ(layout.tensor_offsets, (std::vector<std::uint64_t>{0, 256}));
  ASSERT_EQ(layout.fills.size(), 1u);
  EXPECT_EQ(layout.reads_of(0).size(), 1u) << "one read serves both";
  EXPECT_EQ(layout.copies_of(0).size(), 2u);
}

TEST(LayerLayout, AlignedTensorsLandInTheSlotAsTheyStandInTheFile) {
  const Layer layer{"l", {tensor(4096 + 64, 40'000), tensor(4096 + 64 + 40'000, 64)}};
  const LayerLayout layout = make_layer_layout(layer, files(4096), kLanding);
  EXPECT_TRUE(layout.fills.empty());
  EXPECT_EQ(layout.tensor_offsets[0] % 4096, 64u);
  EXPECT_EQ(layout.tensor_offsets[1], layout.tensor_offsets[0] + 40'000);
  for (const FileRead& read : layout.landings) {
    EXPECT_EQ(read.offset % 4096, 0u);
    EXPECT_EQ(read.bytes % 4096, 0u);
    EXPECT_EQ(read.target_offset % 4096, 0u);
    EXPECT_LE(read.bytes, kLanding.request_bytes);
  }
}

TEST(LayerLayout, TensorsOffTheCacheLineTakeTheRingEvenWhereReadsLand) {
  const Layer layer{"l", {tensor(8, 4096)}};
  const LayerLayout layout = make_layer_layout(layer, files(512), kLanding);
  EXPECT_TRUE(layout.landings.empty());
  EXPECT_EQ(layout.fills.size(), 1u);
  EXPECT_EQ(layout.tensor_offsets[0] % kTensorAlignment, 0u);
}

TEST(LayerLayout, TiedTensorsAreReadOnceAndShareTheirPlace) {
  const Layer layer{"l", {tensor(0, 512), tensor(512, 512), tensor(512, 512)}};
  const LayerLayout layout = make_layer_layout(layer, files(512), kRing);
  EXPECT_EQ(layout.tensor_offsets[1], layout.tensor_offsets[2]);
  EXPECT_EQ(layout.disk_bytes(), 1024u);
}

TEST(LayerLayout, ASmallGapIsReadAndALargeOneIsSkipped) {
  const LayoutRules rules{.block_bytes = 1 << 20, .request_bytes = 256 << 10, .merge_gap_bytes = 4096};
  const Layer near{"l", {tensor(0, 512), tensor(4096, 512)}};
  EXPECT_EQ(make_layer_layout(near, files(512), rules).block_reads.size(), 1u);
  const Layer far{"l", {tensor(0, 512), tensor(8192, 512)}};
  const LayerLayout layout = make_layer_layout(far, files(512), rules);
  ASSERT_EQ(layout.fills.size(), 1u) << "both spans share a block";
  EXPECT_EQ(layout.reads_of(0).size(), 2u);
  EXPECT_EQ(layout.disk_bytes(), 1024u);
}

TEST(LayerLayout, MemorySourcesAreCopiedFromWhereTheyLie) {
  const std::vector<std::byte> memory(1000);
  Layer layer{"l", {tensor(0, 300)}};
  layer.tensors.push_back({"m", DType::kU8, {1000}, 1000, memory.data()});
  layer.tensors.push_back({"tied", DType::kU8, {1000}, 1000, memory.data()});
  const LayerLayout layout = make_layer_layout(layer, files(512), kRing);
  ASSERT_EQ(layout.memory_copies.size(), 1u);
  EXPECT_EQ(layout.memory_copies[0].source, memory.data());
  EXPECT_EQ(layout.tensor_offsets[1], layout.tensor_offsets[2]);
  EXPECT_EQ(layout.memory_bytes(), 1000u);
}

TEST(LayerLayout, EmptyTensorsAndLayersMoveNothing) {
  const Layer layer{"l", {tensor(77, 0)}};
  const LayerLayout layout = make_layer_layout(layer, files(512), kRing);
  EXPECT_EQ(layout.disk_bytes(), 0u);
  EXPECT_EQ(layout.slot_bytes, 0u);
}

/// Replays a layout over real bytes: reads into blocks and slot, then copies.
std::vector<std::byte> replay(const LayerLayout& layout, const std::vector<std::vector<std::byte>>& contents,
                              const LayoutRules& rules) {
  std::vector<std::byte> slot(layout.slot_bytes);
  const auto read = [&](const FileRead& r, std::vector<std::byte>& target) {
    ASSERT_LE(r.target_offset + r.bytes, target.size());
    const std::vector<std::byte>& file = contents[r.file];
    std::memcpy(target.data() + r.target_offset, file.data() + r.offset,
                std::min(r.bytes, file.size() - r.offset));
  };
  for (const FileRead& r : layout.landings) read(r, slot);
  for (std::size_t fill = 0; fill < layout.fills.size(); ++fill) {
    std::vector<std::byte> block(rules.block_bytes);
    for (const FileRead& r : layout.reads_of(fill)) read(r, block);
    for (const BlockCopy& c : layout.copies_of(fill)) {
      EXPECT_LE(c.block_offset + c.bytes, block.size());
      EXPECT_LE(c.slot_offset + c.bytes, slot.size());
      std::memcpy(slot.data() + c.slot_offset, block.data() + c.block_offset, c.bytes);
    }
  }
  return slot;
}

TEST(LayerLayout, ReplayedOverAnyFilesItBringsEveryTensorItsBytes) {
  std::mt19937_64 random(1);
  const auto below = [&](std::uint64_t limit) { return random() % limit; };
  for (int round = 0; round < 400; ++round) {
    SCOPED_TRACE(fmt::format("round {}", round));
    const std::uint32_t alignment = std::uint32_t{1} << (below(2) == 0 ? 9 : below(13));
    std::vector<std::vector<std::byte>> contents(1 + below(3));
    Layer layer{"l", {}};
    for (std::uint64_t i = 0, count = below(12); i < count; ++i) {
      const auto file = static_cast<std::uint32_t>(below(contents.size()));
      const std::uint64_t bytes = below(2) == 0 ? 64 * below(1000) : below(90'000);
      if (below(4) == 0) contents[file].resize(contents[file].size() + below(70'000));
      layer.tensors.push_back(tensor(contents[file].size(), bytes, file));
      contents[file].resize(contents[file].size() + bytes);
    }
    std::ranges::shuffle(layer.tensors, random);
    std::vector<SourceFile> sources = files(alignment, contents.size());
    for (std::size_t i = 0; i < contents.size(); ++i) {
      for (std::byte& byte : contents[i]) byte = static_cast<std::byte>(random());
      sources[i].info.bytes = contents[i].size();
    }
    const LayoutRules rules{.block_bytes = std::uint64_t{32 << 10} << below(2),
                            .request_bytes = 16 << 10,
                            .reads_land = below(2) == 0};
    const LayerLayout layout = make_layer_layout(layer, sources, rules);
    const std::vector<std::byte> slot = replay(layout, contents, rules);
    for (std::size_t i = 0; i < layer.tensors.size(); ++i) {
      const TensorSpec& spec = layer.tensors[i];
      const auto& extent = std::get<FileExtent>(spec.source);
      ASSERT_LE(layout.tensor_offsets[i] + spec.bytes, slot.size());
      EXPECT_EQ(layout.tensor_offsets[i] % kLandedTensorAlignment, 0u);
      if (spec.bytes == 0) continue;
      EXPECT_EQ(std::memcmp(slot.data() + layout.tensor_offsets[i],
                            contents[extent.file].data() + extent.offset, spec.bytes),
                0);
    }
    for (const FileRead& read : layout.block_reads) {
      EXPECT_EQ(read.offset % alignment, 0u);
      EXPECT_EQ(read.bytes % alignment, 0u);
      EXPECT_EQ(read.target_offset % alignment, 0u);
      EXPECT_LE(read.bytes, rules.request_bytes);
    }
  }
}

}  // namespace
}  // namespace tierstream
