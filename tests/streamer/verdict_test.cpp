#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/streamer/verdict.h>

#include <algorithm>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace tierstream {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::uint64_t kMB = 1'000'000;
constexpr std::uint64_t kGB = 1'000 * kMB;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr LinkRates kRates = {.disk = 1.7e9, .host_to_device = 50e9};

/// Of ten layers, none of which stays.
Plan plan_of(std::uint64_t disk_bytes, std::uint64_t copied_bytes, std::uint32_t slots = 3) {
  Plan plan;
  plan.layers.resize(10);
  for (LayerLayout& layer : plan.layers) layer.slot_bytes = 128u << 20;
  plan.slot_bytes = 128u << 20;
  plan.slots = slots;
  plan.disk_bytes = disk_bytes;
  plan.copied_bytes = copied_bytes;
  return plan;
}

/// A steady pass of that plan.
PassStats pass_of(const Plan& plan, double seconds, double disk_busy, double copies_busy) {
  PassStats pass;
  pass.layers = plan.layers.size();
  pass.seconds = seconds;
  pass.bytes.disk = plan.disk_bytes;
  pass.links.disk = {plan.disk_bytes, disk_busy * seconds};
  pass.links.host_to_device = {plan.copied_bytes, copies_busy * seconds};
  return pass;
}

TEST(Verdict, NamesTheDiskItsShareAndWhatMorePageCacheWouldSave) {
  const Plan plan = plan_of(34 * kGB / 10, 34 * kGB / 10);
  PassStats pass = pass_of(plan, 2.0 / 0.96, 0.99, 0.05);
  pass.stall.disk = 1.9;
  const Verdict verdict = judge(pass, plan, kRates, {.is_host = true});
  EXPECT_EQ(verdict.binding, Binding::kDisk);
  EXPECT_DOUBLE_EQ(verdict.bound_seconds, 2.0);
  EXPECT_DOUBLE_EQ(verdict.efficiency, 0.96);
  EXPECT_DOUBLE_EQ(verdict.disk.share, 0.96);
  EXPECT_DOUBLE_EQ(verdict.disk.bytes_per_second, 0.96 * 1.7e9);
  EXPECT_EQ(verdict.words,
            "disk-bound: 96 % of the disk's 1.70 GB/s; 1 GiB more page cache would save 0.66 s a pass");
}

TEST(Verdict, SavesNoMoreThanIsReadAndThanTheNextLinkAllows) {
  const Plan plan = plan_of(170 * kMB, 0);
  PassStats pass = pass_of(plan, 0.102, 0.98, 0);
  pass.stall.disk = 0.1;
  EXPECT_THAT(judge(pass, plan, kRates).words,
              HasSubstr("; 162 MiB more page cache would save 0.1 s a pass"));
  Plan computing = plan;
  computing.compute_seconds = 0.08;
  EXPECT_THAT(judge(pass, computing, kRates).words, HasSubstr("would save 22 ms a pass"));
  computing.compute_seconds = 0.1015;
  EXPECT_THAT(judge(pass, computing, kRates).words, Not(HasSubstr("would save")));
}

TEST(Verdict, TakesTheSavingsThatItIsTold) {
  const Plan plan = plan_of(34 * kGB, 34 * kGB);
  PassStats pass = pass_of(plan, 20.5, 0.99, 0.05);
  pass.stall.disk = 20;
  EXPECT_THAT(judge(pass, plan, kRates, {.page_cache_gib_saves = 0.25}).words,
              HasSubstr("1 GiB more page cache would save 0.25 s a pass"));
  EXPECT_THAT(judge(pass, plan, kRates, {.page_cache_gib_saves = 0}).words, Not(HasSubstr("would save")));
}

TEST(Verdict, NamesTheLinkToTheDevice) {
  const Plan plan = plan_of(0, 50 * kGB);
  PassStats pass = pass_of(plan, 1.02, 0, 0.99);
  pass.bytes = {.page_cache = 50 * kGB};
  pass.stall.slot = 1.0;
  const Verdict verdict = judge(pass, plan, kRates);
  EXPECT_EQ(verdict.binding, Binding::kHostToDevice);
  EXPECT_NEAR(verdict.efficiency, 0.98, 0.001);
  EXPECT_EQ(verdict.words,
            "copy-bound: 98 % of the link's 50.0 GB/s; 1 GiB more gpu would save 22 ms a pass");
}

TEST(Verdict, OfTwoBusyLinksTheOneBindsThatNeedsLonger) {
  const Plan plan = plan_of(1700 * kMB, 40 * kGB);
  EXPECT_EQ(judge(pass_of(plan, 1.1, 0.9, 0.99), plan, kRates).binding, Binding::kDisk);
  EXPECT_EQ(judge(pass_of(plan, 1.1, 0.99, 0.9), plan, {.disk = 3e9, .host_to_device = 40e9}).binding,
            Binding::kHostToDevice);
  EXPECT_EQ(judge(pass_of(plan, 1.1, 0.9, 0.99), plan, {}).binding, Binding::kHostToDevice)
      << "without rates: the busier one";
  EXPECT_EQ(judge(pass_of(plan, 0.6, 0.9, 0.99), plan, kRates).binding, Binding::kHostToDevice)
      << "and where the disk's bytes did not come from the disk";
}

TEST(Verdict, OnTheHostWhoeverDoesNotWaitComputes) {
  const Plan plan = plan_of(170 * kMB, 0);
  PassStats pass = pass_of(plan, 2.0, 0.2, 0);
  pass.stall.disk = 0.06;
  const Verdict verdict = judge(pass, plan, kRates, {.is_host = true});
  EXPECT_EQ(verdict.binding, Binding::kCompute);
  EXPECT_DOUBLE_EQ(verdict.bound_seconds, 1.94);
  EXPECT_DOUBLE_EQ(verdict.efficiency, 0.97);
  EXPECT_EQ(verdict.words, "compute-bound: waited for layers 3 % of the pass");
}

TEST(Verdict, WaitsForSlotsAreTheDevicesWorkWhereItIsNotTheHost) {
  const Plan plan = plan_of(170 * kMB, 170 * kMB);
  PassStats pass = pass_of(plan, 2.0, 0.2, 0.1);
  pass.stall.slot = 1.9;
  EXPECT_EQ(judge(pass, plan, kRates).words, "compute-bound: disk busy 20 %, copies busy 10 % of the pass");
  const Verdict on_host = judge(pass, plan, kRates, {.is_host = true});
  EXPECT_EQ(on_host.binding, Binding::kSlots);
  EXPECT_EQ(on_host.words, "slot-bound: waited 1.9 s of 2 s for slots in use");
}

TEST(Verdict, OneSlotIsNeverFilledAndUsedAtOnce) {
  const Plan plan = plan_of(850 * kMB, 0, 1);
  PassStats pass = pass_of(plan, 1.0, 0.5, 0);
  pass.stall.disk = 0.5;
  const Verdict verdict = judge(pass, plan, kRates, {.is_host = true});
  EXPECT_EQ(verdict.binding, Binding::kSlots);
  EXPECT_DOUBLE_EQ(verdict.efficiency, 0.5);
  EXPECT_EQ(verdict.words,
            "slot-bound: the only slot is filled or used, never both; a second takes 128 MiB more gpu");
}

TEST(Verdict, ASmallRingKeepsBothLinksWaiting) {
  const Plan plan = plan_of(850 * kMB, 850 * kMB);
  PassStats pass = pass_of(plan, 1.0, 0.7, 0.6);
  pass.stall = {.disk = 0.1, .ring = 0.7, .copy = 0.1};
  const Verdict verdict = judge(pass, plan, kRates, {.is_host = true});
  EXPECT_EQ(verdict.binding, Binding::kRing);
  EXPECT_THAT(verdict.words, HasSubstr("ring-bound: waited 0.7 s of 1 s for free blocks; "));
}

TEST(Verdict, TellsADiskThatIsSlowFromOneThatIsNotKeptBusy) {
  const Plan plan = plan_of(850 * kMB, 0);
  PassStats pass = pass_of(plan, 1.0, 0.99, 0);
  pass.stall.disk = 0.95;
  EXPECT_THAT(judge(pass, plan, kRates).words,
              HasSubstr("50 % of the disk's 1.70 GB/s, though busy 99 % of the pass"));
  pass.links.disk.busy_seconds = 0.52;
  EXPECT_THAT(judge(pass, plan, kRates).words,
              HasSubstr("50 % of the disk's 1.70 GB/s, idle 48 % of the pass"));
}

TEST(Verdict, WithoutRatesItSaysWhatThePassWaitedFor) {
  const Plan plan = plan_of(850 * kMB, 850 * kMB);
  PassStats pass = pass_of(plan, 0.61, 0.97, 0.2);
  pass.stall.disk = 0.52;
  const Verdict verdict = judge(pass, plan, {}, {.is_host = true});
  EXPECT_EQ(verdict.words, "disk-bound: waited 0.52 s of 0.61 s for the disk");
  EXPECT_EQ(verdict.bound_seconds, 0);
  EXPECT_EQ(verdict.efficiency, 0);
  EXPECT_EQ(verdict.disk.share, 0);
  EXPECT_GT(verdict.disk.bytes_per_second, 0);
  EXPECT_EQ(judge(pass, plan, {.disk = 1.7e9}, {.is_host = true}).efficiency, 0)
      << "the copies might have needed longer";
}

TEST(Verdict, BytesFasterThanTheDiskDidNotComeFromIt) {
  const Plan plan = plan_of(10 * kGB, 0);
  PassStats pass = pass_of(plan, 2.0, 0.99, 0);
  pass.stall.disk = 1.9;
  EXPECT_EQ(judge(pass, plan, kRates).words, "disk-bound: 5.00 GB/s, faster than the disk's 1.70 GB/s");
}

TEST(Verdict, ReadsOutOfThePageCacheAreNotTheDisks) {
  const Plan plan = plan_of(10 * kGB, 0);
  PassStats pass = pass_of(plan, 2.0, 0.99, 0);
  pass.bytes = {.disk = 2 * kGB, .page_cache = 8 * kGB};
  pass.links.disk.bytes = 2 * kGB;
  pass.links.cached_bytes = 8 * kGB;
  pass.stall.disk = 1.9;
  Verdict verdict = judge(pass, plan, kRates);
  EXPECT_EQ(verdict.words, "read-bound: 5.00 GB/s, 80 % of it out of the page cache");
  EXPECT_EQ(verdict.efficiency, 0) << "unknown";
  pass.links.disk.bytes = 0;
  verdict = judge(pass, plan, kRates);
  EXPECT_EQ(verdict.binding, Binding::kDisk) << "bytes were moved all the same";
  pass.links.disk.bytes = 3400 * kMB;
  pass.links.cached_bytes = 50 * kMB;
  verdict = judge(pass, plan, kRates);
  EXPECT_DOUBLE_EQ(verdict.efficiency, 1.0) << "a few do not matter";
  EXPECT_THAT(verdict.words, HasSubstr("disk-bound: 100 % of the disk's 1.70 GB/s"));
}

TEST(Verdict, APassThatMovesNothingIsBoundByNothing) {
  Plan plan = plan_of(0, 0, 10);
  PassStats pass = pass_of(plan, 1e-5, 0, 0);
  pass.bytes.gpu = kGB;
  const Verdict verdict = judge(pass, plan, kRates, {.is_host = true});
  EXPECT_EQ(verdict.binding, Binding::kNothing);
  EXPECT_EQ(verdict.words, "nothing was moved: every byte lay where it is used");
  EXPECT_EQ(judge(pass, plan, {}).bound_seconds, 0) << "and no rate matters";
}

TEST(Verdict, WhatCameBeforeThePassIsNotCreditedToIt) {
  const Plan plan = plan_of(1700 * kMB, 0);
  PassStats pass = pass_of(plan, 0.8, 0.99, 0);
  pass.links.disk.bytes = 1190 * kMB;  // a last pass: the rest was read ahead
  EXPECT_DOUBLE_EQ(judge(pass, plan, kRates).bound_seconds, 0.7);
}

TEST(Verdict, WasteIsNotCreditedToAPass) {
  const Plan plan = plan_of(1700 * kMB, 0);
  PassStats pass = pass_of(plan, 2.0, 0.99, 0);
  pass.links.disk.bytes *= 2;
  pass.unused_bytes = plan.disk_bytes;
  EXPECT_DOUBLE_EQ(judge(pass, plan, kRates).efficiency, 0.5);
}

TEST(Verdict, WhatComesToStayCountsInThePassThatBringsIt) {
  const Plan plan = plan_of(0, 0, 10);
  PassStats pass = pass_of(plan, 1.05, 0.99, 0);
  pass.bytes.disk = pass.links.disk.bytes = 1700 * kMB;
  pass.stall.disk = 1.0;
  const Verdict verdict = judge(pass, plan, kRates);
  EXPECT_DOUBLE_EQ(verdict.bound_seconds, 1.0);
  EXPECT_EQ(verdict.words,
            "disk-bound: 95 % of the disk's 1.70 GB/s; it brought what stays: later passes move less");
}

TEST(Verdict, ALittleThatComesToStayIsNotWorthAWord) {
  const Plan plan = plan_of(1700 * kMB, 0);
  PassStats pass = pass_of(plan, 1.05, 0.99, 0);
  pass.bytes.disk += kMB;
  pass.links.disk.bytes += kMB;
  const Verdict verdict = judge(pass, plan, kRates);
  EXPECT_DOUBLE_EQ(verdict.bound_seconds, 1.0);
  EXPECT_THAT(verdict.words, HasSubstr("would save"));
}

TEST(Verdict, EveryBindingHasANameOfItsOwn) {
  std::vector<std::string> names;
  for (const Binding binding : {Binding::kNothing, Binding::kDisk, Binding::kHostToDevice, Binding::kCompute,
                                Binding::kRing, Binding::kSlots}) {
    names.emplace_back(name_of(binding));
  }
  std::ranges::sort(names);
  EXPECT_EQ(std::ranges::adjacent_find(names), names.end());
}

// --- Properties ---

class AnyPass : public ::testing::Test {
 protected:
  double share() { return std::uniform_real_distribution(0.0, 1.0)(random_); }
  std::uint64_t bytes() { return random_() % 4 == 0 ? 0 : random_() % (200 * kGB); }

  void draw() {
    plan_ = plan_of(bytes(), bytes(), static_cast<std::uint32_t>(1 + random_() % 4));
    pass_ = pass_of(plan_, 1e-5 + 100 * share() * share(), share(), share());
    if (random_() % 4 == 0) pass_.links.disk.bytes += bytes();
    if (random_() % 4 == 0) pass_.bytes.disk += bytes();
    if (random_() % 4 == 0) pass_.links.cached_bytes = bytes();
    double waited = pass_.seconds * share();
    for (double* const part : {&pass_.stall.disk, &pass_.stall.ring, &pass_.stall.copy, &pass_.stall.slot}) {
      *part = waited * share();
      waited -= *part;
    }
    rates_ = {.disk = random_() % 4 == 0 ? 0 : 1e8 + 1e10 * share(),
              .host_to_device = random_() % 4 == 0 ? 0 : 1e9 + 1e11 * share()};
    options_.is_host = random_() % 2 == 0;
  }
  Verdict judged() const { return judge(pass_, plan_, rates_, options_); }

  static constexpr int kDraws = 20'000;
  std::mt19937_64 random_{1};
  Plan plan_;
  PassStats pass_;
  LinkRates rates_;
  JudgeOptions options_;
};

TEST_F(AnyPass, TheFiguresFitEachOther) {
  for (int i = 0; i < kDraws; ++i) {
    draw();
    const Verdict verdict = judged();
    EXPECT_NEAR(verdict.efficiency * pass_.seconds, verdict.bound_seconds,
                1e-9 * (1 + verdict.bound_seconds));
    for (const auto& [link, work, rate] :
         {std::tuple{verdict.disk, pass_.links.disk, rates_.disk},
          std::tuple{verdict.host_to_device, pass_.links.host_to_device, rates_.host_to_device}}) {
      EXPECT_NEAR(link.bytes_per_second * pass_.seconds, static_cast<double>(work.bytes),
                  1e-6 * static_cast<double>(work.bytes));
      EXPECT_NEAR(link.share * rate, rate > 0 ? link.bytes_per_second : 0, 1e-6 * link.bytes_per_second);
      EXPECT_LE(link.busy, 1);
      // What the bound counts was moved.
      if (verdict.bound_seconds > 0 && rate > 0 && !options_.is_host) {
        EXPECT_LE(verdict.bound_seconds,
                  std::max(static_cast<double>(pass_.links.disk.bytes) / std::max(rates_.disk, 1.0),
                           static_cast<double>(pass_.links.host_to_device.bytes) /
                               std::max(rates_.host_to_device, 1.0)) *
                      (1 + 1e-9));
      }
    }
  }
}

TEST_F(AnyPass, EveryClauseFitsALine) {
  for (int i = 0; i < kDraws; ++i) {
    draw();
    const std::string words = judged().words;
    EXPECT_FALSE(words.empty());
    std::string_view rest = words;
    for (std::size_t end = 0; end != rest.npos; rest.remove_prefix(end == rest.npos ? 0 : end + 2)) {
      end = rest.find("; ");
      EXPECT_LE(rest.substr(0, end).size(), 71u) << words;
    }
  }
}

TEST_F(AnyPass, AFasterDiskNeverNeedsLonger) {
  for (int i = 0; i < kDraws; ++i) {
    draw();
    const Verdict before = judged();
    if (rates_.disk == 0 || before.bound_seconds == 0) continue;
    rates_.disk *= 1.5;
    EXPECT_LE(judged().bound_seconds, before.bound_seconds);
  }
}

TEST_F(AnyPass, TheSameAtHalfTheSpeedGetsTheSameVerdict) {
  for (int i = 0; i < kDraws; ++i) {
    draw();
    const Verdict before = judged();
    pass_.seconds *= 2;
    for (double* const part : {&pass_.stall.disk, &pass_.stall.ring, &pass_.stall.copy, &pass_.stall.slot,
                               &pass_.links.disk.busy_seconds, &pass_.links.host_to_device.busy_seconds,
                               &rates_.disk, &rates_.host_to_device}) {
      const bool is_rate = part == &rates_.disk || part == &rates_.host_to_device;
      *part *= is_rate ? 0.5 : 2;
    }
    const Verdict after = judged();
    EXPECT_EQ(after.binding, before.binding);
    EXPECT_NEAR(after.efficiency, before.efficiency, 1e-9 * before.efficiency);
  }
}

}  // namespace
}  // namespace tierstream
