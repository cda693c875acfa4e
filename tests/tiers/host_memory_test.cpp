#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/host_memory.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "support/byte_units.h"

namespace tierstream {
namespace {

constexpr std::size_t kPageBytes = 4096;

std::size_t resident_pages(std::span<const std::byte> memory) {
  std::vector<unsigned char> pages((memory.size() + kPageBytes - 1) / kPageBytes);
  if (::mincore(const_cast<std::byte*>(memory.data()), memory.size(), pages.data()) != 0) return 0;
  return static_cast<std::size_t>(std::ranges::count_if(pages, [](unsigned char page) { return page & 1; }));
}

bool mapped(const std::byte* page) {
  unsigned char resident = 0;
  return ::mincore(const_cast<std::byte*>(page), kPageBytes, &resident) == 0;
}

TEST(HostMemory, StartsAtAHugePage) {
  for (const std::size_t bytes : {std::size_t{1}, 3 * kMiB, 33 * kMiB + 17}) {
    const HostMemory memory(bytes);
    EXPECT_EQ(memory.span().size(), bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.span().data()) % (2 * kMiB), 0u);
  }
}

TEST(HostMemory, IsZeroAndWhollyTouched) {
  for (const std::size_t bytes : {std::size_t{1}, 3 * kMiB, 33 * kMiB + 17}) {
    const HostMemory memory(bytes);
    EXPECT_EQ(resident_pages(memory.span()), (bytes + kPageBytes - 1) / kPageBytes);
    EXPECT_TRUE(std::ranges::all_of(memory.span(), [](std::byte value) { return value == std::byte{0}; }));
  }
}

TEST(HostMemory, MapsNothingBeyondItsLastPage) {
  const HostMemory memory(kPageBytes + 1);
  EXPECT_TRUE(mapped(memory.span().data() + kPageBytes));
  EXPECT_FALSE(mapped(memory.span().data() + 2 * kPageBytes));
}

TEST(HostMemory, OfNoBytesIsLegal) {
  HostMemory memory(0);
  EXPECT_TRUE(memory.span().empty());
  EXPECT_EQ(memory.release(), nullptr);
}

TEST(HostMemory, IsUnmappedAtItsEnd) {
  const std::byte* data = nullptr;
  {
    const HostMemory memory(kPageBytes);
    data = memory.span().data();
    EXPECT_TRUE(mapped(data));
  }
  EXPECT_FALSE(mapped(data));
}

TEST(HostMemory, MovesWithItsBytes) {
  HostMemory memory(kMiB);
  std::byte* const data = memory.span().data();
  HostMemory moved = std::move(memory);
  EXPECT_EQ(moved.span().data(), data);
  HostMemory assigned;
  assigned = std::move(moved);
  EXPECT_EQ(assigned.span().data(), data);
  EXPECT_EQ(assigned.span().size(), kMiB);
  EXPECT_TRUE(mapped(data));
}

TEST(HostMemory, ReleasedStaysUntilItIsAdopted) {
  std::byte* data = nullptr;
  {
    HostMemory memory(kPageBytes);
    data = memory.release();
    EXPECT_TRUE(memory.span().empty());
  }
  EXPECT_TRUE(mapped(data));
  HostMemory::adopt(data, kPageBytes);
  EXPECT_FALSE(mapped(data));
}

TEST(HostMemory, SaysHowMuchTheSystemRefused) {
  for (const std::size_t bytes : {std::size_t{1} << 62, std::numeric_limits<std::size_t>::max()}) {
    try {
      const HostMemory memory(bytes);
      FAIL() << "mapped " << bytes << " bytes";
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::kOutOfMemory);
      EXPECT_EQ(error.cause(), std::errc::not_enough_memory);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("EiB"));
    }
  }
}

}  // namespace
}  // namespace tierstream
