#include "tools/synthetic_contents.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace tierstream {
namespace {

static_assert(std::endian::native == std::endian::little,
              "words are laid out as a little-endian machine does");

constexpr std::uint64_t kWordBytes = sizeof(std::uint64_t);

/// Which bits of each 8-byte word are fixed and which are random.
struct BitPattern {
  std::uint64_t fixed = 0;
  std::uint64_t random = ~std::uint64_t{0};
};

/// Signs and mantissas are random; an exponent is fixed but for its lowest bit, or as a whole.
BitPattern pattern_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return {0x3F80'0000'0000'0000, 0x800F'FFFF'FFFF'FFFF};
    case DType::kF32:
    case DType::kC64:
      return {0x3C00'0000'3C00'0000, 0x80FF'FFFF'80FF'FFFF};
    case DType::kBF16:
      return {0x3C00'3C00'3C00'3C00, 0x80FF'80FF'80FF'80FF};
    case DType::kF16:
      return {0x2000'2000'2000'2000, 0x83FF'83FF'83FF'83FF};
    case DType::kF8E4M3:
    case DType::kF8E4M3Fnuz:
      return {0x2020'2020'2020'2020, 0x8787'8787'8787'8787};
    case DType::kF8E5M2:
    case DType::kF8E5M2Fnuz:
      return {0x2020'2020'2020'2020, 0x8383'8383'8383'8383};
    case DType::kF8E8M0:  // a power of two, without a sign
      return {0x7474'7474'7474'7474, 0x0303'0303'0303'0303};
    case DType::kBool:
      return {0, 0x0101'0101'0101'0101};
    default:
      return {};
  }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014), counted
/// instead of iterated.
std::uint64_t split_mix(std::uint64_t key, std::uint64_t index) noexcept {
  std::uint64_t z = key + (index + 1) * 0x9E37'79B9'7F4A'7C15;
  z = (z ^ (z >> 30)) * 0xBF58'476D'1CE4'E5B9;
  z = (z ^ (z >> 27)) * 0x94D0'49BB'1331'11EB;
  return z ^ (z >> 31);
}

}  // namespace

SyntheticContents::SyntheticContents(std::uint64_t seed, DType dtype, std::string_view full_name)
    : key_(XXH3_64bits_withSeed(full_name.data(), full_name.size(), seed)),
      fixed_bits_(pattern_of(dtype).fixed),
      random_bits_(pattern_of(dtype).random) {}

std::uint64_t SyntheticContents::word_at(std::uint64_t index) const noexcept {
  return fixed_bits_ | (split_mix(key_, index) & random_bits_);
}

std::byte SyntheticContents::byte_at(std::uint64_t offset) const noexcept {
  return static_cast<std::byte>(word_at(offset / kWordBytes) >> (offset % kWordBytes * 8));
}

void SyntheticContents::fill(std::uint64_t offset, std::span<std::byte> destination) const noexcept {
  std::size_t done = 0;
  const auto fill_bytes_until = [&](std::size_t end) {
    for (; done < end; ++done) destination[done] = byte_at(offset + done);
  };
  fill_bytes_until(std::min<std::size_t>(destination.size(), -offset % kWordBytes));
  for (; destination.size() - done >= kWordBytes; done += kWordBytes) {
    const std::uint64_t word = word_at((offset + done) / kWordBytes);
    std::memcpy(destination.data() + done, &word, kWordBytes);
  }
  fill_bytes_until(destination.size());
}

std::optional<std::uint64_t> SyntheticContents::first_difference(
    std::uint64_t offset, std::span<const std::byte> actual) const noexcept {
  std::size_t done = 0;
  const auto equal_until = [&](std::size_t end) {
    while (done < end && actual[done] == byte_at(offset + done)) ++done;
    return done >= end;
  };
  if (!equal_until(std::min<std::size_t>(actual.size(), -offset % kWordBytes))) return offset + done;
  for (; actual.size() - done >= kWordBytes; done += kWordBytes) {
    std::uint64_t word;
    std::memcpy(&word, actual.data() + done, kWordBytes);
    if (word != word_at((offset + done) / kWordBytes)) break;
  }
  if (!equal_until(actual.size())) return offset + done;
  return std::nullopt;
}

}  // namespace tierstream
