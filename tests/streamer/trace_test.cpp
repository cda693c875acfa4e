#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/streamer/trace.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "trace_events.h"

namespace tierstream {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using Kind = TraceEvent::Kind;

TraceEvent event_of(Kind kind, std::uint32_t layer, nanoseconds begin, nanoseconds end) {
  return {.kind = kind, .layer = layer, .begin = begin, .end = end};
}

std::string timeline_of(const Trace& trace) {
  std::ostringstream out;
  write_timeline(trace, out);
  return out.str();
}

json chrome_trace_of(const Trace& trace) {
  std::ostringstream out;
  write_chrome_trace(trace, out);
  return json::parse(out.str());
}

// --- The recorder ---

TEST(Trace, KeepsTheLatestEventsAndCountsThoseThatMadeRoom) {
  Trace trace(4);
  for (std::uint32_t i = 0; i < 10; ++i)
    trace.record(event_of(Kind::kRead, i, milliseconds(i), milliseconds(i + 1)));
  std::vector<std::uint32_t> kept;
  for (const TraceEvent& event : trace.events()) kept.push_back(event.layer);
  EXPECT_EQ(kept, (std::vector<std::uint32_t>{6, 7, 8, 9}));
  EXPECT_EQ(trace.dropped(), 6u);
}

TEST(Trace, GivesEventsInTheOrderOfTheirBegin) {
  Trace trace;
  trace.record(event_of(Kind::kRead, 1, milliseconds(5), milliseconds(6)));
  trace.record(event_of(Kind::kPass, 1, milliseconds(0), milliseconds(9)));
  EXPECT_EQ(trace.events().front().kind, Kind::kPass);
  EXPECT_EQ(trace.dropped(), 0u);
}

TEST(Trace, MakesOneOfWaitsThatContinueOneAnother) {
  Trace trace(8);
  const auto wait = [&](StallCause cause, std::uint32_t layer, int begin, int end) {
    TraceEvent event = event_of(Kind::kWait, layer, milliseconds(begin), milliseconds(end));
    event.cause = cause;
    trace.record(event);
  };
  wait(StallCause::kDisk, 1, 0, 1);
  trace.record(event_of(Kind::kRead, 1, milliseconds(0), milliseconds(1)));  // in between
  wait(StallCause::kDisk, 1, 1, 2);
  wait(StallCause::kDisk, 1, 2, 3);
  wait(StallCause::kCopy, 1, 3, 4);  // another cause
  wait(StallCause::kCopy, 2, 4, 5);  // another layer
  wait(StallCause::kCopy, 2, 6, 7);  // a gap
  std::vector<std::pair<nanoseconds, nanoseconds>> spans;
  for (const TraceEvent& event : of_kind(Kind::kWait, trace.events()))
    spans.emplace_back(event.begin, event.end);
  EXPECT_EQ(spans, (std::vector<std::pair<nanoseconds, nanoseconds>>{{milliseconds(0), milliseconds(3)},
                                                                     {milliseconds(3), milliseconds(4)},
                                                                     {milliseconds(4), milliseconds(5)},
                                                                     {milliseconds(6), milliseconds(7)}}));
}

TEST(Trace, AWaitThatMadeRoomIsNotContinued) {
  Trace trace(2);
  trace.record(event_of(Kind::kWait, 0, milliseconds(0), milliseconds(1)));
  for (int i = 0; i < 2; ++i) trace.record(event_of(Kind::kRead, 0, milliseconds(0), milliseconds(1)));
  trace.record(event_of(Kind::kWait, 0, milliseconds(1), milliseconds(2)));
  const std::vector<TraceEvent> waits = of_kind(Kind::kWait, trace.events());
  ASSERT_EQ(waits.size(), 1u);
  EXPECT_EQ(waits[0].begin, milliseconds(1));
  EXPECT_EQ(of_kind(Kind::kRead, trace.events()).size(), 1u);
}

TEST(Trace, TakesEventsOfManyThreads) {
  constexpr std::uint32_t kThreads = 4;
  constexpr std::uint32_t kEvents = 2000;
  Trace trace(kThreads * kEvents / 2);
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&trace, t] {
        for (std::uint32_t i = 0; i < kEvents; ++i)
          trace.record(event_of(Kind::kRead, t, nanoseconds(i), nanoseconds(i)));
      });
    }
    for (int i = 0; i < 10; ++i) EXPECT_LE(trace.events().size(), kThreads * kEvents / 2);
  }
  EXPECT_EQ(trace.events().size(), kThreads * kEvents / 2);
  EXPECT_EQ(trace.dropped(), kThreads * kEvents / 2);
}

// --- Chrome's format ---

TEST(ChromeTrace, TellsLayerBytesSlotAndBlock) {
  Trace trace;
  trace.begin({.layers = {"layers.0", "bad \xff name"}, .ring_blocks = 4});
  trace.record({.kind = Kind::kRead,
                .layer = 1,
                .slot = 2,
                .block = 3,
                .begin = milliseconds(1),
                .end = milliseconds(3),
                .bytes = 4096});
  const json event = chrome_trace_of(trace)["traceEvents"][1];
  EXPECT_EQ(event["name"], "layer 1");
  EXPECT_EQ(event["cat"], "read");
  EXPECT_EQ(event["ts"], 0);
  EXPECT_EQ(event["dur"], 2000);
  EXPECT_EQ(event["args"],
            (json{{"layer", "bad \xEF\xBF\xBD name"}, {"bytes", 4096}, {"slot", 2}, {"block", 3}}));
}

TEST(ChromeTrace, OfNothingIsValid) { EXPECT_EQ(chrome_trace_of(Trace())["traceEvents"].size(), 1u); }

// --- The picture ---

/// The names of its elements, in order, once it is known that they nest and that attributes are quoted.
std::vector<std::string> elements_of(const std::string& xml) {
  std::vector<std::string> names;
  std::vector<std::string> open;
  for (std::size_t at = xml.find('<'); at != std::string::npos; at = xml.find('<', at)) {
    const std::size_t end = xml.find('>', at);
    if (end == std::string::npos) throw std::runtime_error("a tag does not end");
    const std::string tag = xml.substr(at + 1, end - at - 1);
    at = end;
    if (tag.starts_with('/')) {
      if (open.empty() || open.back() != tag.substr(1)) throw std::runtime_error("unexpected <" + tag + ">");
      open.pop_back();
      continue;
    }
    if (std::ranges::count(tag, '\'') % 2 != 0 || tag.find('<') != std::string::npos) {
      throw std::runtime_error("malformed <" + tag + ">");
    }
    names.push_back(tag.substr(0, tag.find_first_of(" /")));
    if (!tag.ends_with('/')) open.push_back(names.back());
  }
  if (!open.empty()) throw std::runtime_error("<" + open.back() + "> is not closed");
  return names;
}

/// A pass of 80 ms over 80 layers of 1 ms, the second of two, with waits and a ring of two blocks.
void record_synthetic_pass(Trace& trace, std::uint32_t layers) {
  trace.begin({.layers = std::vector<std::string>(layers, "<&'>"), .ring_blocks = 2});
  trace.record(event_of(Kind::kPass, 1, milliseconds(0), milliseconds(10)));
  for (std::uint32_t i = 0; i < layers; ++i) {
    const milliseconds begin(10 + i);
    const auto half = begin + std::chrono::microseconds(500);
    trace.record(
        {.kind = Kind::kRead, .layer = i, .block = i % 2, .begin = begin, .end = half, .bytes = 1u << 20});
    trace.record({.kind = Kind::kCopy,
                  .layer = i,
                  .block = i % 2,
                  .begin = half,
                  .end = begin + milliseconds(1),
                  .bytes = 1u << 20});
    trace.record({.kind = Kind::kWait,
                  .cause = static_cast<StallCause>(i % 4),
                  .layer = i,
                  .begin = begin,
                  .end = half});
    trace.record(event_of(Kind::kLease, i, half, begin + milliseconds(1)));
  }
  trace.record(event_of(Kind::kPass, 2, milliseconds(10), milliseconds(10 + layers)));
}

TEST(Timeline, AddsUpTheLastPass) {
  Trace trace;
  record_synthetic_pass(trace, 80);
  const std::string svg = timeline_of(trace);
  EXPECT_NO_THROW(elements_of(svg));
  EXPECT_THAT(svg, AllOf(HasSubstr("Pass 2: 80.0 ms, 80 layers, stalled 40.0 ms (50 %)"),
                         HasSubstr("80.0 MiB, 1.05 GB/s"), HasSubstr("2 blocks"), HasSubstr("50 % in use"),
                         HasSubstr("busy 50 %")));
  for (const char* cause : {"disk", "ring", "copy", "slot"}) {
    EXPECT_THAT(svg, HasSubstr(std::string("waits for ") + cause + ": 10.0 ms"));
  }
  EXPECT_THAT(svg, Not(HasSubstr("too small")));
}

TEST(Timeline, SaysWhenThePassHasNoBeginning) {
  Trace trace(100);
  record_synthetic_pass(trace, 80);
  EXPECT_GT(trace.dropped(), 0u);
  EXPECT_THAT(timeline_of(trace), HasSubstr("the trace was too small"));
}

TEST(Timeline, StaysSmallHoweverManyEventsThereAre) {
  Trace trace;
  trace.begin({.layers = std::vector<std::string>(4), .ring_blocks = 8});
  for (std::uint32_t i = 0; i < 100'000; ++i) {
    const std::chrono::microseconds begin(i);
    trace.record({.kind = i % 2 == 0 ? Kind::kRead : Kind::kCopy,
                  .layer = i / 25'000,
                  .block = i % 8,
                  .begin = begin,
                  .end = begin + std::chrono::microseconds(1)});
  }
  trace.record(event_of(Kind::kPass, 1, milliseconds(0), milliseconds(100)));
  EXPECT_LT(timeline_of(trace).size(), 60'000u);
}

TEST(Timeline, WithoutAPassSaysSo) {
  const std::string svg = timeline_of(Trace());
  EXPECT_THAT(svg, HasSubstr("No pass has ended."));
  EXPECT_NO_THROW(elements_of(svg));
}

}  // namespace
}  // namespace tierstream
