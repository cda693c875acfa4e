#include "tools/synthetic_contents.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

namespace tierstream {
namespace {

std::vector<std::byte> made(const SyntheticContents& contents, std::uint64_t offset, std::size_t bytes) {
  std::vector<std::byte> result(bytes);
  contents.fill(offset, result);
  return result;
}

TEST(SyntheticContents, AnyRangeCanBeMadeByItself) {
  const SyntheticContents contents(7, DType::kBF16, "model.norm.weight");
  const std::vector<std::byte> whole = made(contents, 0, 200);
  for (std::size_t offset = 0; offset < 40; ++offset) {
    for (std::size_t bytes = 0; bytes < 40; ++bytes) {
      const std::vector<std::byte> expected(whole.begin() + static_cast<std::ptrdiff_t>(offset),
                                            whole.begin() + static_cast<std::ptrdiff_t>(offset + bytes));
      ASSERT_EQ(made(contents, offset, bytes), expected) << offset << " + " << bytes;
      ASSERT_EQ(contents.first_difference(offset, expected), std::nullopt) << offset << " + " << bytes;
    }
  }
}

TEST(SyntheticContents, EveryDifferentBitIsFound) {
  const SyntheticContents contents(7, DType::kU8, "t");
  constexpr std::uint64_t kOffset = 5;
  std::vector<std::byte> bytes = made(contents, kOffset, 67);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const std::byte bit : {std::byte{1}, std::byte{128}}) {
      bytes[i] ^= bit;
      EXPECT_EQ(contents.first_difference(kOffset, bytes), kOffset + i);
      bytes[i] ^= bit;
    }
  }
}

TEST(SyntheticContents, DependsOnSeedAndName) {
  const auto bytes = made(SyntheticContents(1, DType::kU8, "a"), 0, 64);
  EXPECT_NE(made(SyntheticContents(2, DType::kU8, "a"), 0, 64), bytes);
  EXPECT_NE(made(SyntheticContents(1, DType::kU8, "b"), 0, 64), bytes);
}

TEST(SyntheticContents, StaysTheSameAsLongAsItsVersionDoes) {
  ASSERT_EQ(kSyntheticVersion, 1u);
  std::uint64_t word = 0;
  SyntheticContents(42, DType::kBF16, "lm_head.weight").fill(0, std::as_writable_bytes(std::span(&word, 1)));
  EXPECT_EQ(word, 0x3C443C9EBCFC3C86u);
}

TEST(SyntheticContents, FloatsAreFiniteAndSmall) {
  constexpr std::size_t kCount = 4096;
  std::vector<std::uint16_t> halves(kCount);
  SyntheticContents(3, DType::kBF16, "t").fill(0, std::as_writable_bytes(std::span(halves)));
  for (const std::uint16_t bits : halves) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
    ASSERT_TRUE(std::abs(value) >= 1.0f / 256 && std::abs(value) < 0.25f) << value;
  }
  std::vector<float> floats(kCount);
  SyntheticContents(3, DType::kF32, "t").fill(0, std::as_writable_bytes(std::span(floats)));
  for (const float value : floats) {
    ASSERT_TRUE(std::abs(value) >= 1.0f / 256 && std::abs(value) < 0.25f) << value;
  }
  std::vector<double> doubles(kCount);
  SyntheticContents(3, DType::kF64, "t").fill(0, std::as_writable_bytes(std::span(doubles)));
  for (const double value : doubles) {
    ASSERT_TRUE(std::abs(value) >= 1.0 / 256 && std::abs(value) < 0.25) << value;
  }
  SyntheticContents(3, DType::kF16, "t").fill(0, std::as_writable_bytes(std::span(halves)));
  for (const std::uint16_t bits : halves) {
    ASSERT_EQ(bits >> 10 & 0x1F, 8) << "2^(8 - 15) to twice that";
  }
}

TEST(SyntheticContents, BoolsAreZeroOrOne) {
  std::vector<std::byte> bools = made(SyntheticContents(3, DType::kBool, "t"), 0, 256);
  EXPECT_THAT(bools, testing::Each(testing::AnyOf(std::byte{0}, std::byte{1})));
  EXPECT_THAT(bools, testing::Contains(std::byte{0}));
  EXPECT_THAT(bools, testing::Contains(std::byte{1}));
}

}  // namespace
}  // namespace tierstream
