#include <gtest/gtest.h>
#include <tierstream/tiers/chunk_set.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

namespace tierstream {
namespace {

constexpr std::uint64_t kBytes = 4096;  // of a chunk

std::vector<SourceFile> files(std::initializer_list<std::uint64_t> bytes) {
  std::vector<SourceFile> result;
  for (const std::uint64_t size : bytes) result.push_back({"f", {.bytes = size, .version = {}}});
  return result;
}

TEST(ChunkSet, CountsTheLastChunkOfAFileUpToItsEnd) {
  ChunkSet set(files({0, 2 * kBytes + 10}), kBytes);
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.missing_bytes({1, 0, 2}), 2 * kBytes + 10);
  set.insert({1, 1, 2});
  EXPECT_EQ(set.missing_bytes({1, 0, 2}), kBytes);
  EXPECT_EQ(set.bytes(0), 0u);
  EXPECT_EQ(set.bytes(), kBytes + 10);
}

TEST(ChunkSet, HoldsWhatASetOfSingleChunksHolds) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t chunks = 1 + random() % 300;
    const std::uint64_t file_bytes = chunks * kBytes - random() % kBytes;
    const auto bytes_of = [&](std::uint64_t chunk) { return std::min(kBytes, file_bytes - chunk * kBytes); };
    ChunkSet set(files({file_bytes}), kBytes);
    ChunkSet others = set;
    std::vector<bool> model(chunks);
    std::vector<bool> other_model(chunks);
    for (int i = 0; i < 6; ++i) {
      const std::uint64_t first = random() % chunks;
      const ChunkSpan span{0, first, first + random() % (chunks - first)};
      const bool is_other = i % 2 == 1;
      std::uint64_t missing = 0;
      for (std::uint64_t chunk = span.first; chunk <= span.last; ++chunk) {
        if (!(is_other ? other_model : model)[chunk]) missing += bytes_of(chunk);
        (is_other ? other_model : model)[chunk] = true;
      }
      EXPECT_EQ((is_other ? others : set).missing_bytes(span), missing);
      (is_other ? others : set).insert(span);
    }
    if (round % 2 == 1) {
      set.keep_only(others);
      for (std::uint64_t chunk = 0; chunk < chunks; ++chunk)
        model[chunk] = model[chunk] && other_model[chunk];
    }
    std::uint64_t bytes = 0;
    for (std::uint64_t chunk = 0; chunk < chunks; ++chunk) {
      ASSERT_EQ(set.contains(0, chunk), model[chunk]);
      if (model[chunk]) bytes += bytes_of(chunk);
    }
    EXPECT_EQ(set.bytes(), bytes);
    EXPECT_EQ(set.empty(), bytes == 0);
    std::vector<bool> in_ranges(chunks);
    for (const ChunkSet::Range& range : set.ranges()) {
      EXPECT_EQ(range.begin / set.window_bytes(), (range.end - 1) / set.window_bytes());
      for (std::uint64_t begin = range.begin; begin < range.end; begin += kBytes) {
        EXPECT_FALSE(in_ranges[begin / kBytes]) << "twice";
        in_ranges[begin / kBytes] = true;
      }
    }
    EXPECT_EQ(in_ranges, model);
    for (int i = 0; i < 20; ++i) {
      const std::uint64_t begin = random() % file_bytes;
      const std::uint64_t end =
          begin + 1 + random() % (file_bytes + kBytes - begin);  // perhaps past the file's
      std::uint64_t chunk = begin / kBytes;
      while (chunk * kBytes < end && (chunk < chunks && model[chunk]) == model[begin / kBytes]) ++chunk;
      EXPECT_EQ(set.stretch_end(0, begin, end), std::min(end, chunk * kBytes));
      EXPECT_EQ(set.covers(0, begin, end), model[begin / kBytes] && chunk * kBytes >= end);
    }
  }
}

}  // namespace
}  // namespace tierstream
