#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>

#include <limits>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "support/byte_units.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::uint64_t kKiB = 1u << 10;
constexpr std::uint64_t kGiB = 1u << 30;

/// The message of the kInvalidBudget that `parse` throws.
std::string refusal(auto parse) {
  try {
    parse();
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kInvalidBudget);
    return error.what();
  }
  ADD_FAILURE() << "was accepted";
  return {};
}

TEST(ParseBytes, TakesEveryUnit) {
  EXPECT_EQ(parse_bytes("0"), 0u);
  EXPECT_EQ(parse_bytes("4096"), 4096u);
  EXPECT_EQ(parse_bytes("7B"), 7u);
  EXPECT_EQ(parse_bytes("64KiB"), 64 * kKiB);
  EXPECT_EQ(parse_bytes("3MiB"), 3 * kMiB);
  EXPECT_EQ(parse_bytes("6GiB"), 6 * kGiB);
  EXPECT_EQ(parse_bytes("2TiB"), 2048 * kGiB);
  EXPECT_EQ(parse_bytes("1KB"), 1'000u);
  EXPECT_EQ(parse_bytes("1MB"), 1'000'000u);
  EXPECT_EQ(parse_bytes("2GB"), 2'000'000'000u);
  EXPECT_EQ(parse_bytes("1TB"), 1'000'000'000'000u);
}

TEST(ParseBytes, TakesFractions) {
  EXPECT_EQ(parse_bytes("1.5GiB"), kGiB + kGiB / 2);
  EXPECT_EQ(parse_bytes("0.25KiB"), 256u);
}

TEST(ParseBytes, IgnoresCaseAndSpaces) {
  EXPECT_EQ(parse_bytes(" 2 gib "), 2 * kGiB);
  EXPECT_EQ(parse_bytes("2GIB"), 2 * kGiB);
}

TEST(ParseBytes, TakesTheLargestNumberAndNoLarger) {
  EXPECT_EQ(parse_bytes("18446744073709551615"), std::numeric_limits<std::uint64_t>::max());
  for (const char* text : {"18446744073709551616", "16777216TiB", "18014398509481984KiB", "18446744.99TB",
                           "99999999999999999999999"}) {
    EXPECT_THAT(refusal([&] { parse_bytes(text); }), HasSubstr(text));
  }
}

TEST(ParseBytes, RefusesWhatIsNoSize) {
  for (const char* text :
       {"", " ", "-1", "+1", "nan", "inf", "GiB", ".5GiB", "1.GiB", "1e3", "0x10", "1 2", "1..5"}) {
    EXPECT_THAT(refusal([&] { parse_bytes(text); }), HasSubstr('"' + std::string(text) + '"'));
  }
}

TEST(ParseBytes, NamesTheUnitsThatItKnows) {
  EXPECT_EQ(refusal([] { parse_bytes("3 parsec"); }),
            "\"3 parsec\": unknown unit \"parsec\"; the units are B, KiB, MiB, GiB, TiB, KB, MB, GB, TB");
}

TEST(FormatBytes, GivesThreeDigits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(format_bytes(64 * kMiB), "64.0 MiB");
  EXPECT_EQ(format_bytes(kGiB + kGiB / 2), "1.50 GiB");
  EXPECT_EQ(format_bytes(200 * kGiB), "200 GiB");
  EXPECT_EQ(format_bytes(std::numeric_limits<std::uint64_t>::max()), "16.0 EiB");
}

TEST(Budget, WritesWhatItHasToHoldAsItIsParsed) {
  EXPECT_EQ(format_least_bytes(512), "512 bytes");
  EXPECT_EQ(format_least_bytes(2 * kMiB), "2MiB (2097152 bytes)");
  EXPECT_EQ(format_least_bytes(2 * kMiB + 1), "3MiB (2097153 bytes)") << "never less";
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(format_least_bytes(kMost), "17592186044416MiB (18446744073709551615 bytes)");
  EXPECT_EQ(format_least_bytes(1), "1 byte");
  const std::string least = format_least_bytes(2 * kMiB + 1);
  EXPECT_EQ(parse_bytes(least.substr(0, least.find(' '))), 3 * kMiB);
}

TEST(Budget, ReadsEveryTier) {
  const Budget budget = Budget::parse("gpu=6GiB,pinned=512MiB,page_cache=8GiB");
  EXPECT_EQ(budget.gpu, 6 * kGiB);
  EXPECT_EQ(budget.pinned, 512 * kMiB);
  EXPECT_EQ(budget.page_cache, 8 * kGiB);
}

TEST(Budget, IgnoresSpaces) {
  const Budget budget = Budget::parse(" pinned = 1.5 GiB , gpu = 7 ");
  EXPECT_EQ(budget.gpu, 7u);
  EXPECT_EQ(budget.pinned, kGiB + kGiB / 2);
}

TEST(Budget, IsZeroForATierLeftOut) {
  const Budget budget = Budget::parse("pinned=1");
  EXPECT_EQ(budget.gpu, 0u);
  EXPECT_EQ(budget.page_cache, 0u);
}

TEST(Budget, NamesTheTiersThatItKnows) {
  EXPECT_EQ(refusal([] { Budget::parse("gpu=1,vram=2"); }),
            "\"gpu=1,vram=2\": unknown tier \"vram\"; the tiers are gpu, pinned, page_cache");
}

TEST(Budget, RefusesATierNamedTwice) {
  EXPECT_THAT(refusal([] { Budget::parse("gpu=1,gpu=2"); }),
              AllOf(HasSubstr("gpu=1,gpu=2"), HasSubstr("twice")));
}

TEST(Budget, RefusesWhatIsNoList) {
  for (const char* text : {"", "gpu", "gpu=1,", ",gpu=1", "gpu=1,,pinned=2", "=1", "6GiB"}) {
    EXPECT_THAT(refusal([&] { Budget::parse(text); }), HasSubstr('"' + std::string(text) + '"'));
  }
  EXPECT_THAT(refusal([] { Budget::parse("gpu="); }), HasSubstr("\"gpu=\": a size is a number"));
  EXPECT_THAT(refusal([] { Budget::parse("gpu=-1"); }), HasSubstr("\"gpu=-1\""));
  EXPECT_EQ(refusal([] { Budget::parse("gpu=1GiB pinned=64MiB"); }),
            "\"gpu=1GiB pinned=64MiB\": tiers are separated by commas");
}

TEST(TierBudget, HoldsBytesWhileTheirReservationLives) {
  TierBudget budget("gpu", 100);
  {
    const Reservation first = budget.reserve(60, "slots");
    const auto second = budget.try_reserve(40);
    ASSERT_TRUE(second);
    EXPECT_EQ(second->bytes(), 40u);
    EXPECT_EQ(budget.used_bytes(), 100u);
    EXPECT_FALSE(budget.try_reserve(1));
  }
  EXPECT_EQ(budget.used_bytes(), 0u);
  EXPECT_EQ(budget.peak_bytes(), 100u);
}

TEST(TierBudget, MovesBytesWithTheirReservation) {
  TierBudget budget("gpu", 100);
  Reservation first = budget.reserve(60, "slots");
  Reservation second = std::move(first);
  EXPECT_EQ(second.bytes(), 60u);
  EXPECT_EQ(budget.used_bytes(), 60u);
  second = Reservation();
  EXPECT_EQ(budget.used_bytes(), 0u);
}

TEST(TierBudget, HasBytesBackOnceAnotherReservationTakesTheirPlace) {
  TierBudget gpu("gpu", 100);
  Reservation held = gpu.reserve(60, "the first");
  Reservation next = gpu.reserve(40, "the second");
  held = std::move(next);
  EXPECT_EQ(gpu.used_bytes(), 40u);
}

TEST(TierBudget, SaysWhatIsNeededAndLeft) {
  TierBudget budget("gpu", 100);
  const Reservation held = budget.reserve(60, "slots");
  try {
    budget.reserve(41, "the head");
    FAIL() << "more than the limit was given";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kBudgetTooSmall);
    EXPECT_STREQ(error.what(), "the head needs 41 B of the gpu budget; 40 B of 100 B are left");
  }
}

TEST(TierBudget, DoesNotWrapAround) {
  TierBudget budget("gpu", 100);
  const Reservation held = budget.reserve(60, "slots");
  EXPECT_FALSE(budget.try_reserve(std::numeric_limits<std::uint64_t>::max()));
}

TEST(TierBudget, IsNeverExceededByThreadsThatRace) {
  constexpr std::uint64_t kLimit = 10;
  TierBudget budget("pinned", kLimit);
  std::atomic<std::uint64_t> held = 0;
  std::atomic<bool> exceeded = false;
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t bytes = 1; bytes <= 4; ++bytes) {
      threads.emplace_back([&, bytes] {
        for (int round = 0; round < 20'000; ++round) {
          const auto reservation = budget.try_reserve(bytes);
          if (!reservation) continue;
          if (held.fetch_add(bytes) + bytes > kLimit) exceeded = true;
          held.fetch_sub(bytes);
        }
      });
    }
  }
  EXPECT_FALSE(exceeded);
  EXPECT_EQ(budget.used_bytes(), 0u);
  EXPECT_GE(budget.peak_bytes(), 4u);
  EXPECT_LE(budget.peak_bytes(), kLimit);
}

TEST(TierBudget, ALowerLimitTakesNothingAwayAndLetsNobodyReserveMore) {
  TierBudget tier("gpu", 100);
  std::optional<Reservation> held = tier.reserve(80, "what is held");
  tier.set_limit(50);
  EXPECT_EQ(tier.used_bytes(), 80u);
  EXPECT_FALSE(tier.try_reserve(1));
  expect_throws(Errc::kBudgetTooSmall, HasSubstr("0 B of 50 B are left"),
                [&] { (void)tier.reserve(1, "one byte more"); });
  held.reset();
  EXPECT_TRUE(tier.try_reserve(50));
}

}  // namespace
}  // namespace tierstream
