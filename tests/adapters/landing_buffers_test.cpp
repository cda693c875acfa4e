#include "landing_buffers.h"

#include <gtest/gtest.h>
#include <tierstream/io/error.h>

#include "support/fake_device.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kBytes = 4096;

/// Streams get on when the test says so; the device knows what each waits for.
class LandingBuffersTest : public ::testing::Test {
 protected:
  static Stream stream(std::uintptr_t number) { return {reinterpret_cast<void*>(number)}; }

  /// A whole use by `layer`, which lands; returns the number of its last work.
  int use(std::uint32_t slot, std::size_t layer, Stream on) {
    EXPECT_TRUE(buffers_.begin(slot, layer, on));
    device_.queue(on);
    buffers_.landed(slot, on);
    const int work = device_.queue(on);
    buffers_.end(slot, on, on);
    return work;
  }

  testing::FakeDevice device_;
  LandingBuffers buffers_{device_, kBytes};
};

TEST_F(LandingBuffersTest, AreMadeAtTheirFirstUseAndKeepTheirAddress) {
  EXPECT_EQ(device_.allocated_bytes(), 0u);
  const std::byte* const address = buffers_.memory(2).data();
  EXPECT_EQ(device_.allocated_bytes(), kBytes);
  use(0, 1, stream(1));
  use(5, 1, stream(1));
  EXPECT_EQ(buffers_.memory(2).data(), address);
  EXPECT_EQ(buffers_.memory(2).size(), kBytes);
  EXPECT_EQ(device_.allocated_bytes(), 3 * kBytes);
}

TEST_F(LandingBuffersTest, KeepWhatALayerLandedUntilAnotherTakesTheBuffer) {
  use(0, 7, stream(1));
  EXPECT_FALSE(buffers_.begin(0, 7, stream(1)));
  buffers_.end(0, stream(1), stream(1));
  use(0, 8, stream(1));
  EXPECT_TRUE(buffers_.begin(0, 7, stream(1)));
}

TEST_F(LandingBuffersTest, AreLandedAnewAfterAnAttemptThatFailed) {
  EXPECT_TRUE(buffers_.begin(0, 7, stream(1)));
  const int written = device_.queue(stream(1));
  buffers_.cancel(0, stream(1));
  EXPECT_FALSE(device_.waits_for(stream(2), stream(1), written));
  use(0, 7, stream(2));
  EXPECT_TRUE(device_.waits_for(stream(2), stream(1), written)) << "which may still write there";
  use(0, 8, stream(1));
}

TEST_F(LandingBuffersTest, RefuseTwoLayersAtOnce) {
  buffers_.begin(0, 7, stream(1));
  EXPECT_EQ(thrown_by([&] { buffers_.begin(0, 8, stream(1)); }).errc, Errc::kTooManyLeases);
  buffers_.end(0, stream(1), stream(1));
  EXPECT_TRUE(buffers_.begin(0, 8, stream(1)));
}

TEST_F(LandingBuffersTest, MakeASecondStreamWaitForTheLanding) {
  buffers_.begin(0, 7, stream(1));
  const int landing = device_.queue(stream(1));
  buffers_.landed(0, stream(1));
  EXPECT_FALSE(device_.waits_for(stream(2), stream(1), landing));
  EXPECT_FALSE(buffers_.begin(0, 7, stream(2)));
  EXPECT_TRUE(device_.waits_for(stream(2), stream(1), landing));
}

TEST_F(LandingBuffersTest, MakeTheNextLayerWaitForTheUsesOnAllStreams) {
  buffers_.begin(0, 7, stream(1));
  buffers_.landed(0, stream(1));
  buffers_.begin(0, 7, stream(2));
  const int first = device_.queue(stream(1));
  const int second = device_.queue(stream(2));
  const int third = device_.queue(stream(3));
  EXPECT_FALSE(buffers_.end(0, stream(1), stream(1)));
  EXPECT_TRUE(buffers_.end(0, stream(2), stream(3)));  // acquired on one stream, released on another

  EXPECT_TRUE(device_.waits_for(stream(3), stream(1), first)) << "who fills it with NaN";
  EXPECT_TRUE(device_.waits_for(stream(3), stream(2), second));
  EXPECT_TRUE(buffers_.begin(0, 8, stream(4)));
  EXPECT_TRUE(device_.waits_for(stream(4), stream(1), first));
  EXPECT_TRUE(device_.waits_for(stream(4), stream(2), second));
  EXPECT_TRUE(device_.waits_for(stream(4), stream(3), third));
}

TEST_F(LandingBuffersTest, MakeTheNextUseWaitForWhatOverwroteThem) {
  use(0, 7, stream(1));
  const int fill = device_.queue(stream(2));
  buffers_.forget(0, stream(2));
  EXPECT_TRUE(buffers_.begin(0, 7, stream(1)));
  EXPECT_TRUE(device_.waits_for(stream(1), stream(2), fill));
}

}  // namespace
}  // namespace tierstream
