#include "cached_read_nap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

namespace tierstream {
namespace {

using std::chrono::microseconds;
using std::chrono::nanoseconds;

constexpr std::size_t kUnderWay = 16;

/// Reads that end in one nap, where each takes `read` and `parallel` are carried out at the same time.
std::size_t ended_in(nanoseconds nap, nanoseconds read, std::size_t parallel) {
  return std::min(kUnderWay, parallel * static_cast<std::size_t>(nap / read));
}

void take_naps(CachedReadNap& nap, int naps, nanoseconds read, std::size_t parallel) {
  for (int i = 0; i < naps; ++i) nap.learn(ended_in(nap.length(), read, parallel), kUnderWay);
}

TEST(CachedReadNap, LetsAQuarterToAHalfOfTheReadsEnd) {
  for (const auto read : {microseconds(20), microseconds(100), microseconds(200)}) {
    for (const std::size_t parallel : {1, 2}) {
      CachedReadNap nap;
      take_naps(nap, 50, read, parallel);
      for (int i = 0; i < 20; ++i) {
        const std::size_t ended = ended_in(nap.length(), read, parallel);
        EXPECT_GE(ended, kUnderWay / 4) << read.count() << " us, " << parallel;
        EXPECT_LE(ended, kUnderWay / 2) << read.count() << " us, " << parallel;
        take_naps(nap, 1, read, parallel);
      }
    }
  }
}

TEST(CachedReadNap, FollowsReadsThatBecomeFasterOrSlower) {
  CachedReadNap nap;
  take_naps(nap, 50, microseconds(200), 1);
  const nanoseconds slow = nap.length();
  EXPECT_GE(slow, microseconds(800));
  take_naps(nap, 20, microseconds(20), 1);
  EXPECT_LE(nap.length(), microseconds(160));
  take_naps(nap, 50, microseconds(200), 1);
  EXPECT_GE(nap.length(), microseconds(800));
}

TEST(CachedReadNap, StaysBetweenItsBounds) {
  CachedReadNap nap;
  for (int i = 0; i < 100; ++i) nap.learn(0, kUnderWay);
  EXPECT_EQ(nap.length(), CachedReadNap::kLongest);
  for (int i = 0; i < 100; ++i) nap.learn(kUnderWay, kUnderWay);
  EXPECT_EQ(nap.length(), CachedReadNap::kShortest);
  for (int i = 0; i < 100; ++i) nap.learn(0, kUnderWay);
  EXPECT_EQ(nap.length(), CachedReadNap::kLongest);
}

}  // namespace
}  // namespace tierstream
