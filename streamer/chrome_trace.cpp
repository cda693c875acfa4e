#include <fmt/format.h>
#include <tierstream/streamer/trace.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <utility>

#include "trace_rows.h"

namespace tierstream {
namespace {

using nlohmann::json;
using Kind = TraceEvent::Kind;

constexpr int kProcess = 1;

double microseconds(std::chrono::nanoseconds time) { return static_cast<double>(time.count()) / 1e3; }

/// From top to bottom as the viewers show them; slots each have their own.
enum class Group : std::uint8_t { kPasses, kDisk, kCopies, kSlot, kWaits };

/// Events that would partly overlap lie in rows of one track, which the viewers know as threads.
struct Track {
  Group group;
  std::uint32_t slot;  ///< of kSlot
  auto operator<=>(const Track&) const = default;
};

Track track_of(const TraceEvent& event) {
  switch (event.kind) {
    case Kind::kRead:
      return {Group::kDisk, 0};
    case Kind::kCopy:
      return {Group::kCopies, 0};
    case Kind::kPublish:
    case Kind::kLease:
      return {Group::kSlot, event.slot};
    case Kind::kWait:
      return {Group::kWaits, 0};
    case Kind::kPass:
      break;
  }
  return {Group::kPasses, 0};
}

std::string title_of(const Track& track) {
  switch (track.group) {
    case Group::kDisk:
      return "disk";
    case Group::kCopies:
      return "copies";
    case Group::kSlot:
      return track.slot == TraceEvent::kNone ? "outside the layers"
                                             : fmt::format("slot {}: compute", track.slot);
    case Group::kWaits:
      return "waits";
    case Group::kPasses:
      break;
  }
  return "passes";
}

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kRead:
      return "read";
    case Kind::kCopy:
      return "copy";
    case Kind::kPublish:
      return "ready";
    case Kind::kLease:
      return "lease";
    case Kind::kWait:
      return "wait";
    case Kind::kPass:
      break;
  }
  return "pass";
}

class ChromeTrace {
 public:
  ChromeTrace(const Trace& trace, std::ostream& out)
      : events_(trace.events()), dropped_(trace.dropped()), subject_(trace.subject()), out_(out) {}

  void write() {
    out_ << R"({"displayTimeUnit":"ms","otherData":)" << json{{"dropped_events", dropped_}} << ",\n"
         << R"("traceEvents":[)";
    put({{"ph", "M"}, {"name", "process_name"}, {"args", {{"name", "tierstream"}}}});
    for (const TraceEvent& event : events_) {
      if (event.kind == Kind::kPublish) {
        put_event(event, {{"ph", "i"}, {"s", "t"}, {"tid", thread_for(event)}});
      } else {
        put_event(event,
                  {{"ph", "X"}, {"dur", microseconds(event.end - event.begin)}, {"tid", thread_for(event)}});
      }
    }
    put_ring_counter();
    put_threads();
    out_ << "\n]}\n";
  }

 private:
  struct Rows {
    TraceRows rows;
    std::vector<int> threads;  ///< by row
  };

  void put(json object) {
    object["pid"] = kProcess;
    // Names that are not UTF-8 are mended, not refused.
    out_ << (std::exchange(is_first_, false) ? "\n" : ",\n")
         << object.dump(-1, ' ', false, json::error_handler_t::replace);
  }

  void put_event(const TraceEvent& event, json object) {
    object["name"] = name_for(event);
    object["cat"] = name_of(event.kind);
    object["ts"] = microseconds(event.begin - origin());
    json& args = object["args"] = json::object();
    if (event.kind != Kind::kPass) args["layer"] = layer_name(event.layer);
    if (event.bytes != 0) args["bytes"] = event.bytes;
    if (event.slot != TraceEvent::kNone) args["slot"] = event.slot;
    if (event.block != TraceEvent::kNone) args["block"] = event.block;
    put(std::move(object));
  }

  std::string name_for(const TraceEvent& event) const {
    if (event.kind == Kind::kPass) return fmt::format("pass {}", event.layer);
    if (event.kind == Kind::kWait) return fmt::format("waits: {}", name_of(event.cause));
    // The same name, and so the same colour, on every track.
    return event.layer < subject_.layers.size() ? fmt::format("layer {}", event.layer) : "outside";
  }
  std::string layer_name(std::uint32_t layer) const {
    return layer < subject_.layers.size() ? subject_.layers[layer] : "outside the layers";
  }

  std::chrono::nanoseconds origin() const { return events_.front().begin; }

  int thread_for(const TraceEvent& event) {
    Rows& track = tracks_[track_of(event)];
    const std::size_t row = event.kind == Kind::kPublish ? 0 : track.rows.add(event.begin, event.end);
    if (row >= track.threads.size()) track.threads.push_back(++threads_);
    return track.threads[row];
  }

  /// How many blocks of the ring are in use, at each time when that changes.
  void put_ring_counter() {
    std::map<std::chrono::nanoseconds, int> changes;
    for (const TraceEvent& event : events_) {
      if (event.block == TraceEvent::kNone) continue;
      ++changes[event.begin];
      --changes[event.end];
    }
    int in_use = 0;
    for (const auto& [time, change] : changes) {
      if (change == 0) continue;
      in_use += change;
      put({{"ph", "C"},
           {"name", "ring blocks in use"},
           {"ts", microseconds(time - origin())},
           {"args", {{"blocks", in_use}}}});
    }
  }

  void put_threads() {
    int order = 0;
    for (const auto& [track, rows] : tracks_) {
      for (const int thread : rows.threads) {
        put({{"ph", "M"}, {"name", "thread_name"}, {"tid", thread}, {"args", {{"name", title_of(track)}}}});
        put({{"ph", "M"},
             {"name", "thread_sort_index"},
             {"tid", thread},
             {"args", {{"sort_index", order++}}}});
      }
    }
  }

  const std::vector<TraceEvent> events_;
  const std::uint64_t dropped_;
  const Trace::Subject subject_;
  std::ostream& out_;
  bool is_first_ = true;
  std::map<Track, Rows> tracks_;
  int threads_ = 0;
};

}  // namespace

void write_chrome_trace(const Trace& trace, std::ostream& out) { ChromeTrace(trace, out).write(); }

}  // namespace tierstream
