// What a streamer records, on the CPU device.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "small_model.h"
#include "support/thrown.h"
#include "trace_events.h"

namespace tierstream {
namespace {

using nlohmann::json;
using std::chrono::nanoseconds;
using ::testing::HasSubstr;
using Kind = TraceEvent::Kind;

std::uint64_t bytes_of(const std::vector<TraceEvent>& events) {
  std::uint64_t sum = 0;
  for (const TraceEvent& event : events) sum += event.bytes;
  return sum;
}

/// Every test runs with all bytes taking the ring, and with reads landing in the slots.
class StreamerTraceTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr std::uint32_t kLayers = 6;
  static constexpr int kPasses = 3;

  StreamerTraceTest() {
    Streamer streamer(
        model_.table,
        {.device = make_cpu_device({.reads_land = GetParam()}), .budget = model_.budget(2), .trace = trace_});
    EXPECT_TRUE(model_.has_right_bytes(streamer.outside("embedding")));
    for (int pass = 1; pass <= kPasses; ++pass) {
      for (Lease layer : streamer.pass({.last = pass == kPasses})) EXPECT_TRUE(model_.has_right_bytes(layer));
    }
    streamer.close();  // what was under way is over, and recorded
    stats_ = streamer.stats();
    events_ = trace_->events();
  }

  std::vector<TraceEvent> of_layer(Kind kind, std::uint32_t layer) const {
    std::vector<TraceEvent> found = of_kind(kind, events_);
    std::erase_if(found, [layer](const TraceEvent& event) { return event.layer != layer; });
    return found;
  }

  const SmallModel model_{kLayers, 64 * 700};
  const std::shared_ptr<Trace> trace_ = std::make_shared<Trace>();
  StreamerStats stats_;
  std::vector<TraceEvent> events_;
};

INSTANTIATE_TEST_SUITE_P(, StreamerTraceTest, ::testing::Bool(), name_of_mode);

TEST_P(StreamerTraceTest, EveryLayerOfEveryPassIsThere) {
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    EXPECT_EQ(of_layer(Kind::kLease, layer).size(), static_cast<std::size_t>(kPasses));
    EXPECT_EQ(of_layer(Kind::kPublish, layer).size(), static_cast<std::size_t>(kPasses));
    EXPECT_EQ(bytes_of(of_layer(Kind::kRead, layer)), kPasses * model_.layer_bytes());
    EXPECT_EQ(bytes_of(of_layer(Kind::kCopy, layer)), GetParam() ? 0 : kPasses * model_.layer_bytes());
  }
  EXPECT_EQ(of_layer(Kind::kPublish, kLayers).size(), 1u) << "the tensors outside";
  const std::vector<TraceEvent> passes = of_kind(Kind::kPass, events_);
  ASSERT_EQ(passes.size(), static_cast<std::size_t>(kPasses));
  EXPECT_EQ(passes.back().layer, static_cast<std::uint32_t>(kPasses));
  EXPECT_EQ(trace_->dropped(), 0u);
}

TEST_P(StreamerTraceTest, EachStageOfALayerFollowsTheOneBefore) {
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    const std::vector<TraceEvent> leases = of_layer(Kind::kLease, layer);
    const std::vector<TraceEvent> ready = of_layer(Kind::kPublish, layer);
    const std::vector<TraceEvent> reads = of_layer(Kind::kRead, layer);
    const std::vector<TraceEvent> copies = of_layer(Kind::kCopy, layer);
    ASSERT_EQ(leases.size(), ready.size());
    for (std::size_t load = 0; load < leases.size(); ++load) {
      EXPECT_LE(ready[load].begin, leases[load].begin);
      EXPECT_EQ(ready[load].slot, leases[load].slot);
      EXPECT_LE(leases[load].begin, leases[load].end);
      if (load == 0) continue;
      EXPECT_LE(leases[load - 1].end, ready[load].begin) << "its slot was given up in between";
    }
    for (const TraceEvent& copy : copies) {
      const auto read = std::ranges::find_if(reads, [&](const TraceEvent& candidate) {
        return candidate.block == copy.block && candidate.end == copy.begin;
      });
      EXPECT_NE(read, reads.end()) << "a block is copied from when its reads are done, at once";
    }
  }
}

TEST_P(StreamerTraceTest, NoBlockAndNoSlotHasTwoUsesAtATime) {
  std::map<std::uint32_t, nanoseconds> block_free;
  std::map<std::uint32_t, nanoseconds> slot_free;
  for (const TraceEvent& event : events_) {
    EXPECT_LE(event.begin, event.end);
    if (event.block != TraceEvent::kNone) {
      EXPECT_LE(std::exchange(block_free[event.block], event.end), event.begin);
    }
    if (event.kind == Kind::kLease) {
      EXPECT_LE(std::exchange(slot_free[event.slot], event.end), event.begin);
    }
  }
  for (const TraceEvent& read : of_kind(Kind::kRead, events_)) {
    for (const TraceEvent& lease : of_kind(Kind::kLease, events_)) {
      const bool apart = read.end <= lease.begin || lease.end <= read.begin;
      EXPECT_TRUE(apart || read.slot != lease.slot) << "layer " << read.layer << " over " << lease.layer;
    }
  }
}

TEST_P(StreamerTraceTest, WaitsAddUpToTheStalls) {
  std::map<StallCause, double> seconds;
  for (const TraceEvent& wait : of_kind(Kind::kWait, events_)) {
    seconds[wait.cause] += std::chrono::duration<double>(wait.end - wait.begin).count();
  }
  EXPECT_NEAR(seconds[StallCause::kDisk], stats_.total.stall.disk, 1e-9);
  EXPECT_NEAR(seconds[StallCause::kRing], stats_.total.stall.ring, 1e-9);
  EXPECT_NEAR(seconds[StallCause::kCopy], stats_.total.stall.copy, 1e-9);
  EXPECT_NEAR(seconds[StallCause::kSlot], stats_.total.stall.slot, 1e-9);
}

TEST_P(StreamerTraceTest, AsJsonEveryEventLiesOnANamedTrackWithoutOverlaps) {
  std::ostringstream out;
  write_chrome_trace(*trace_, out);
  const json trace = json::parse(out.str());
  EXPECT_EQ(trace["otherData"]["dropped_events"], 0);
  std::map<int, std::string> tracks;
  std::map<int, double> busy_until;
  std::size_t written = 0;
  for (const json& event : trace["traceEvents"]) {
    if (event["name"] == "thread_name") tracks[event["tid"]] = event["args"]["name"];
    if (event["ph"] != "X" && event["ph"] != "i") continue;
    ++written;
    EXPECT_GE(event["ts"], 0);
    if (event["ph"] != "X") continue;
    const double begin = event["ts"];
    EXPECT_LE(busy_until[event["tid"]], begin + 1e-3);
    busy_until[event["tid"]] = begin + event["dur"].get<double>();
  }
  EXPECT_EQ(written, events_.size());
  std::set<std::string> names;
  for (const auto& [thread, busy] : busy_until) names.insert(tracks.at(thread));
  for (const char* name : {"passes", "disk", "slot 0: compute", "slot 1: compute"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_EQ(names.contains("copies"), !GetParam());
}

TEST_P(StreamerTraceTest, ThePictureShowsEveryLayerOfTheLastPass) {
  std::ostringstream out;
  write_timeline(*trace_, out);
  const std::string svg = out.str();
  EXPECT_THAT(svg, HasSubstr("Pass 3: "));
  for (const char* lane : {">disk<", ">ring<", ">copy<", ">compute<", ">waits<"})
    EXPECT_THAT(svg, HasSubstr(lane));
  for (std::uint32_t layer = 0; layer < kLayers; ++layer)
    EXPECT_THAT(svg, HasSubstr("layer " + std::to_string(layer) + ": "));
}

TEST(StreamerTrace, ShowsCopiesFromWhereBytesLieInMemory) {
  constexpr std::uint32_t kLayers = 4;
  constexpr std::uint64_t kBytes = 10'000;
  const std::vector<std::byte> weights(kBytes);
  LayerTable table;
  for (std::uint32_t i = 0; i < kLayers; ++i) {
    table.layers.push_back(
        {fmt::format("layers.{}", i),
         {{"t", DType::kU8, {static_cast<std::int64_t>(kBytes)}, kBytes, weights.data()}}});
  }
  const auto trace = std::make_shared<Trace>();
  Streamer streamer(std::move(table), {.budget = {.gpu = 2 * 12'288}, .trace = trace});
  for (const Lease& layer : streamer.pass({.last = true})) EXPECT_EQ(layer.size(), 1u);
  streamer.close();
  const std::vector<TraceEvent> events = trace->events();
  const std::vector<TraceEvent> copies = of_kind(Kind::kCopy, events);
  ASSERT_EQ(copies.size(), kLayers);
  for (const TraceEvent& copy : copies) {
    EXPECT_EQ(copy.bytes, kBytes);
    EXPECT_EQ(copy.block, TraceEvent::kNone);
  }
  EXPECT_EQ(of_kind(Kind::kRead, events).size(), 0u);
}

TEST(StreamerTrace, IsStillUnusedAfterAStreamerThatCouldNotBeMade) {
  SmallModel model(2);
  const StreamerOptions options{.budget = model.budget(2), .trace = std::make_shared<Trace>()};
  model.table.files[0].info.bytes += 1;
  expect_throws(Errc::kFileChanged, HasSubstr("model: "), [&] { Streamer(model.table, options); });
  model.table.files[0].info.bytes -= 1;
  EXPECT_NO_THROW(Streamer(model.table, options));
}

TEST(StreamerTrace, BelongsToOneStreamer) {
  const SmallModel model(2);
  const StreamerOptions options{.budget = model.budget(2), .trace = std::make_shared<Trace>()};
  const Streamer first(model.table, options);
  expect_throws(Errc::kInvalidArgument, HasSubstr("one streamer"), [&] { Streamer(model.table, options); });
}

}  // namespace
}  // namespace tierstream
