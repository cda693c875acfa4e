#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "llama/sampler.h"
#include "support/thrown.h"

namespace tierstream::llama {
namespace {

using testing::HasSubstr;

// The probabilities 0.5, 0.3, 0.15 and 0.05, in another order.
const std::array kLogits = {std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};

std::vector<std::size_t> choices(const Sampling& sampling, std::size_t count) {
  Sampler sampler(sampling);
  std::vector<std::size_t> tokens;
  for (std::size_t i = 0; i < count; ++i) tokens.push_back(sampler.choose(kLogits));
  return tokens;
}

/// How often each token came.
std::array<double, 4> shares(const Sampling& sampling) {
  constexpr std::size_t kCount = 20'000;
  std::array<double, 4> result{};
  for (const std::size_t token : choices(sampling, kCount)) result[token] += 1.0 / kCount;
  return result;
}

TEST(Sampler, GreedyTakesTheMostLikelyTokenAndTheFirstOfEqualOnes) {
  Sampler sampler({});
  EXPECT_EQ(sampler.choose(kLogits), 1u);
  EXPECT_EQ(sampler.choose(std::array{1.0f, 3.0f, 3.0f}), 1u);
}

TEST(Sampler, RepeatsItselfByItsSeed) {
  const Sampling sampling{.temperature = 1, .top_p = 0.9, .seed = 5};
  EXPECT_EQ(choices(sampling, 50), choices(sampling, 50));
  EXPECT_NE(choices(sampling, 50), choices({.temperature = 1, .top_p = 0.9, .seed = 6}, 50));
}

TEST(Sampler, TakesTokensAsOftenAsTheyAreLikely) {
  const auto found = shares({.temperature = 1, .top_p = 1});
  EXPECT_NEAR(found[0], 0.15, 0.01);
  EXPECT_NEAR(found[1], 0.5, 0.015);
  EXPECT_NEAR(found[2], 0.05, 0.01);
  EXPECT_NEAR(found[3], 0.3, 0.015);
}

TEST(Sampler, TopPKeepsTheFewestTokensThatHaveThatMuch) {
  const auto two = shares({.temperature = 1, .top_p = 0.79});
  EXPECT_EQ(two[0] + two[2], 0);
  EXPECT_NEAR(two[1], 0.5 / 0.8, 0.015);
  const auto three = shares({.temperature = 1, .top_p = 0.81});
  EXPECT_EQ(three[2], 0);
  EXPECT_NEAR(three[0], 0.15 / 0.95, 0.015);
  EXPECT_NEAR(shares({.temperature = 1, .top_p = 0.01})[1], 1, 1e-9);
}

TEST(Sampler, TemperatureFlattensOrSharpens) {
  const auto flat = shares({.temperature = 100});
  for (const double share : flat) EXPECT_NEAR(share, 0.25, 0.02);
  EXPECT_GT(shares({.temperature = 0.1})[1], 0.98);
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  const auto refused = [](const Sampling& sampling, const char* fragment) {
    expect_throws(Errc::kInvalidArgument, HasSubstr(fragment), [&] { Sampler sampler(sampling); });
  };
  refused({.temperature = -1}, "a temperature of -1");
  refused({.temperature = std::numeric_limits<double>::infinity()}, "a temperature of inf");
  refused({.temperature = 1, .top_p = 0}, "a top-p of 0");
  refused({.temperature = 1, .top_p = 1.5}, "a top-p of 1.5");
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 1}}) {
    Sampler sampler(sampling);
    for (const auto& logits : {std::array{1.0f, kNaN}, {1.0f, kInfinity}, {-kInfinity, -kInfinity}}) {
      expect_throws(Errc::kInvalidArgument, HasSubstr("no finite numbers"), [&] { sampler.choose(logits); });
    }
    EXPECT_EQ(sampler.choose(std::array{-kInfinity, 1.0f}), 1u);  // an impossible token
  }
}

}  // namespace
}  // namespace tierstream::llama
