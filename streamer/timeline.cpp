#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/streamer/trace.h>
#include <tierstream/tiers/budget.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <ostream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "trace_rows.h"

namespace tierstream {
namespace {

using Kind = TraceEvent::Kind;
using std::chrono::nanoseconds;

// Pixels.
constexpr double kWidth = 1200;
constexpr double kPlotLeft = 92;
constexpr double kPlotRight = 1030;
constexpr double kPlotWidth = kPlotRight - kPlotLeft;
constexpr double kPlotTop = 62;
constexpr double kLaneHeight = 44;
constexpr double kLaneGap = 12;
constexpr double kDigitWidth = 6.2;
constexpr double kLeastTickDistance = 80;
/// More are folded into the last.
constexpr std::size_t kMostRows = 4;

constexpr std::array kCauses = {StallCause::kDisk, StallCause::kRing, StallCause::kCopy, StallCause::kSlot};

// Classes: the two tones of a lane, and `w` with a cause's number for waits.
constexpr std::string_view kStyle = R"(<style>
text{font-family:system-ui,'DejaVu Sans',sans-serif;font-size:12px;fill:#24292f}
.title{font-size:16px;font-weight:bold}.lane{font-size:13px;font-weight:bold}.minor{fill:#656d76}
.index{font-size:10px;text-anchor:middle;fill:#fff}.tick{font-size:11px;fill:#656d76;text-anchor:middle}
.grid{stroke:#d8dee4}.floor{fill:#f6f8fa}.ready{fill:#24292f}
.disk0{fill:#2f6fd0}.disk1{fill:#6fa3ea}.ring{fill:#8a63d2}.copy0{fill:#14808c}.copy1{fill:#46b3bd}
.compute0{fill:#2d8a47}.compute1{fill:#63bb7b}.w0{fill:#d1242f}.w1{fill:#e16f24}.w2{fill:#b3247f}.w3{fill:#8f5a00}
</style>
)";

double milliseconds(nanoseconds time) { return static_cast<double>(time.count()) / 1e6; }

/// Enough digits to tell apart what lies `step_ms` apart.
std::string format_ms(double ms, double step_ms) {
  const int digits = std::clamp(static_cast<int>(std::ceil(-std::log10(step_ms) - 1e-9)), 0, 6);
  return fmt::format("{:.{}f}", ms, digits);
}

/// Three digits of a duration.
std::string format_duration(nanoseconds time) {
  const double ms = milliseconds(time);
  if (ms >= 1000) return fmt::format("{:.2f} s", ms / 1000);
  return ms >= 1 ? fmt::format("{:.1f} ms", ms) : fmt::format("{:.0f} us", ms * 1000);
}

/// Part of a lane that is drawn as one.
struct Bar {
  std::uint32_t key;  ///< the layer, or the cause of a wait
  nanoseconds begin;
  nanoseconds end;
};

/// The last pass that ended, and what happened within it.
class Timeline {
 public:
  Timeline(const Trace& trace, const TraceEvent& pass, const std::vector<TraceEvent>& events)
      : pass_(pass), subject_(trace.subject()), length_(std::max(pass.end - pass.begin, nanoseconds{1})) {
    is_cut_ = trace.dropped() != 0 &&
              std::ranges::none_of(events, [&](const TraceEvent& event) { return event.end <= pass.begin; });
    for (TraceEvent event : events) {
      if (event.kind == Kind::kPass || event.end < pass.begin || event.begin > pass.end) continue;
      const nanoseconds whole = event.end - event.begin;
      event.begin = std::max(event.begin, pass.begin);
      event.end = std::min(event.end, pass.end);
      if (whole.count() > 0) {  // bytes are moved evenly, for all that is known
        const double share =
            static_cast<double>((event.end - event.begin).count()) / static_cast<double>(whole.count());
        event.bytes = static_cast<std::uint64_t>(static_cast<double>(event.bytes) * share);
      }
      events_.push_back(event);
    }
  }

  std::string draw() {
    const double lanes_bottom = kPlotTop + 5 * (kLaneHeight + kLaneGap) - kLaneGap;
    svg_ = fmt::format(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {0:.0f} {1:.0f}' width='{0:.0f}' "
        "height='{1:.0f}'>\n",
        kWidth, lanes_bottom + 84);
    svg_ += kStyle;
    svg_ += "<rect width='100%' height='100%' fill='#fff'/>\n";
    draw_title();
    draw_scale(lanes_bottom);
    draw_moves("disk", Kind::kRead, "disk");
    draw_ring();
    draw_moves("copy", Kind::kCopy, "copy");
    draw_compute();
    draw_waits();
    draw_legend(lanes_bottom + 62);
    svg_ += "</svg>\n";
    return std::move(svg_);
  }

 private:
  double x(nanoseconds time) const {
    return kPlotLeft + kPlotWidth * static_cast<double>((time - pass_.begin).count()) /
                           static_cast<double>(length_.count());
  }
  double share_of_pass(nanoseconds time) const {
    return static_cast<double>(time.count()) / static_cast<double>(length_.count());
  }
  bool is_layer(std::uint32_t layer) const { return layer < subject_.layers.size(); }

  template <typename... Arguments>
  void add(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    fmt::format_to(std::back_inserter(svg_), format, std::forward<Arguments>(arguments)...);
  }

  // --- What is drawn around the lanes ---

  void draw_title() {
    const nanoseconds stalled = busy(Kind::kWait);
    add("<text class='title' x='16' y='28'>Pass {}: {}, {}, stalled {} ({:.0f} %)</text>\n", pass_.layer,
        format_duration(length_), counted(leases(), "layer"), format_duration(stalled),
        100 * share_of_pass(stalled));
    if (is_cut_) {
      add("<text class='minor' x='1184' y='28' text-anchor='end'>the trace was too small for the beginning "
          "of this pass</text>\n");
    }
  }

  /// Ticks at 1, 2 or 5 times a power of ten milliseconds.
  void draw_scale(double bottom) {
    const double least_ms = milliseconds(length_) * kLeastTickDistance / kPlotWidth;
    const double power = std::pow(10, std::floor(std::log10(least_ms)));
    double step_ms = 10 * power;
    for (const double factor : {5.0, 2.0, 1.0}) {
      if (factor * power >= least_ms) step_ms = factor * power;
    }
    for (int tick = 0; tick * step_ms <= milliseconds(length_); ++tick) {
      const double at = kPlotLeft + kPlotWidth * tick * step_ms / milliseconds(length_);
      add("<path class='grid' d='M{0:.1f} {1:.0f}V{2:.0f}'/><text class='tick' x='{0:.1f}' "
          "y='{3:.0f}'>{4}</text>\n",
          at, kPlotTop - 6, bottom + 6, bottom + 20, format_ms(tick * step_ms, step_ms));
    }
    add("<text class='tick' x='{:.0f}' y='{:.0f}'>ms</text>\n", kPlotRight + 40, bottom + 20);
  }

  void draw_legend(double y) {
    double at = kPlotLeft;
    const auto entry = [&](std::string_view swatch, std::string_view text) {
      add("<g transform='translate({:.0f} {:.0f})'>{}<text x='26' y='4'>{}</text></g>\n", at, y, swatch,
          text);
      at += 50 + kDigitWidth * 1.08 * static_cast<double>(text.size());
    };
    entry(
        "<rect class='disk0' y='-5' width='10' height='10'/><rect class='disk1' x='10' y='-5' width='10' "
        "height='10'/>",
        "layers in turn, by number");
    entry("<path class='ready' d='M6 -4h8l-4 8z'/>", "layer is ready");
    for (const StallCause cause : kCauses) {
      const nanoseconds time = busy(Kind::kWait, &cause);
      if (time.count() == 0) continue;
      entry(fmt::format("<rect class='w{}' y='-5' width='20' height='10'/>", static_cast<int>(cause)),
            fmt::format("waits for {}: {}", name_of(cause), format_duration(time)));
    }
  }

  // --- Lanes ---

  /// The next lane from above, with its name and two lines of totals; returns its upper edge.
  double begin_lane(std::string_view name, std::string_view total, std::string_view more) {
    const double top = kPlotTop + static_cast<double>(lanes_++) * (kLaneHeight + kLaneGap);
    add("<rect class='floor' x='{:.0f}' y='{:.1f}' width='{:.0f}' height='{:.0f}'/>\n", kPlotLeft, top,
        kPlotWidth, kLaneHeight);
    add("<text class='lane' x='16' y='{:.1f}'>{}</text>\n", top + kLaneHeight / 2 + 4, name);
    add("<text x='{0:.0f}' y='{1:.1f}'>{2}</text><text class='minor' x='{0:.0f}' y='{3:.1f}'>{4}</text>\n",
        kPlotRight + 12, top + 18, total, top + 36, more);
    return top;
  }

  void draw_moves(std::string_view name, Kind kind, std::string_view style) {
    std::uint64_t bytes = 0;
    for (const TraceEvent& event : events_) bytes += event.kind == kind ? event.bytes : 0;
    const double rate = static_cast<double>(bytes) / static_cast<double>(length_.count());
    const double top =
        begin_lane(name, bytes == 0 ? "nothing" : fmt::format("{}, {:.2f} GB/s", format_bytes(bytes), rate),
                   fmt::format("busy {:.0f} %", 100 * share_of_pass(busy(kind))));
    draw_bars(bars_of(kind), top, style);
  }

  void draw_compute() {
    const nanoseconds time = busy(Kind::kLease);
    const double top =
        begin_lane("compute", counted(leases(), "layer"),
                   fmt::format("{}, {:.0f} %", format_duration(time), 100 * share_of_pass(time)));
    draw_bars(bars_of(Kind::kLease), top, "compute");
    for (const TraceEvent& event : events_) {
      if (event.kind == Kind::kPublish)
        add("<path class='ready' d='M{:.1f} {:.1f}h6l-3 6z'/>\n", x(event.begin) - 3, top - 8);
    }
  }

  void draw_waits() {
    const nanoseconds time = busy(Kind::kWait);
    const double top = begin_lane("waits", format_duration(time),
                                  fmt::format("{:.0f} % of the pass", 100 * share_of_pass(time)));
    for (const Bar& bar : bars_of(Kind::kWait)) {
      const char* const cause = name_of(static_cast<StallCause>(bar.key));
      draw_bar(bar, top, kLaneHeight, fmt::format("w{}", bar.key), cause, cause);
    }
  }

  /// The share of the ring that is in use.
  void draw_ring() {
    std::vector<std::pair<nanoseconds, int>> changes;
    nanoseconds in_use{0};
    for (const TraceEvent& event : events_) {
      if (event.block == TraceEvent::kNone) continue;
      changes.emplace_back(event.begin, 1);
      changes.emplace_back(event.end, -1);
      in_use += event.end - event.begin;
    }
    if (changes.empty()) {
      begin_lane("ring", "not used", "");
      return;
    }
    std::ranges::sort(changes);
    const double blocks = std::max(subject_.ring_blocks, 1u);
    const double top = begin_lane("ring", counted(subject_.ring_blocks, "block"),
                                  fmt::format("{:.0f} % in use", 100 * share_of_pass(in_use) / blocks));
    const double bottom = top + kLaneHeight;
    add("<path class='ring' d='M{:.1f} {:.1f}", kPlotLeft, bottom);
    int used = 0;
    int drawn = 0;
    int most = 0;  // since the last point: what changes within half a pixel shows as its peak
    double last_x = kPlotLeft;
    const auto set_level = [&](double at, int level) {
      if (level != drawn) add("H{:.1f}V{:.1f}", at, bottom - kLaneHeight * level / blocks);
      drawn = level;
    };
    const auto draw_to = [&](double at) {
      if (at - last_x < 0.5) return;
      set_level(last_x, most);
      set_level(last_x + 0.5, used);
      last_x = at;
      most = used;
    };
    for (const auto& [time, change] : changes) {
      draw_to(x(time));
      used += change;
      most = std::max(most, used);
    }
    draw_to(kPlotRight);
    add("H{:.1f}V{:.1f}z'/>\n", kPlotRight, bottom);
  }

  void draw_bars(const std::vector<Bar>& bars, double top, std::string_view style) {
    TraceRows rows;
    std::vector<std::size_t> row_of;
    for (const Bar& bar : bars) row_of.push_back(std::min(rows.add(bar.begin, bar.end), kMostRows - 1));
    const double height =
        kLaneHeight / static_cast<double>(std::clamp<std::size_t>(rows.count(), 1, kMostRows));
    for (std::size_t i = 0; i < bars.size(); ++i) {
      const std::string label = is_layer(bars[i].key) ? std::to_string(bars[i].key) : "out";
      draw_bar(bars[i], top + height * static_cast<double>(row_of[i]), height,
               fmt::format("{}{}", style, bars[i].key % 2), label,
               is_layer(bars[i].key) ? "layer " + label : "outside the layers");
    }
  }

  void draw_bar(const Bar& bar, double top, double height, std::string_view style, std::string_view label,
                std::string_view description) {
    constexpr double kLeastWidth = 0.6;
    const double left = x(bar.begin);
    const double width = std::max(x(bar.end) - left, kLeastWidth);
    add("<rect class='{}' x='{:.1f}' y='{:.1f}' width='{:.1f}' height='{:.1f}'><title>{}: {} to {} "
        "ms</title></rect>",
        style, left, top, width, height - 1, description,
        format_ms(milliseconds(bar.begin - pass_.begin), tooltip_step_ms()),
        format_ms(milliseconds(bar.end - pass_.begin), tooltip_step_ms()));
    if (width >= kDigitWidth * static_cast<double>(label.size()) + 1) {
      add("<text class='index' x='{:.1f}' y='{:.1f}'>{}</text>", left + width / 2, top + height / 2 + 3.5,
          label);
    }
    svg_ += '\n';
  }

  // --- What the events add up to ---

  double tooltip_step_ms() const { return milliseconds(length_) / 1e4; }

  std::size_t leases() const {
    return static_cast<std::size_t>(std::ranges::count(events_, Kind::kLease, &TraceEvent::kind));
  }

  /// The time with at least one event of the kind, and of the cause if there is one.
  nanoseconds busy(Kind kind, const StallCause* cause = nullptr) const {
    nanoseconds sum{0};
    nanoseconds counted_until{0};
    for (const TraceEvent& event : events_) {
      if (event.kind != kind || (cause != nullptr && event.cause != *cause)) continue;
      const nanoseconds begin = std::max(event.begin, counted_until);
      if (event.end <= begin) continue;
      sum += event.end - begin;
      counted_until = event.end;
    }
    return sum;
  }

  /// What one layer, or one cause, does without a break that would be seen is one bar.
  std::vector<Bar> bars_of(Kind kind) const {
    const nanoseconds pixel = length_ / static_cast<int>(kPlotWidth);
    std::vector<Bar> bars;
    std::unordered_map<std::uint32_t, std::size_t> last;
    for (const TraceEvent& event : events_) {
      if (event.kind != kind) continue;
      const std::uint32_t key = kind == Kind::kWait ? static_cast<std::uint32_t>(event.cause) : event.layer;
      const auto found = last.find(key);
      if (found != last.end() && event.begin - bars[found->second].end <= pixel) {
        bars[found->second].end = std::max(bars[found->second].end, event.end);
        continue;
      }
      last[key] = bars.size();
      bars.push_back({.key = key, .begin = event.begin, .end = event.end});
    }
    return bars;
  }

  const TraceEvent pass_;
  const Trace::Subject subject_;
  const nanoseconds length_;
  bool is_cut_ = false;
  std::vector<TraceEvent> events_;  // of the pass, cut at its ends; in the order of their begin
  int lanes_ = 0;
  std::string svg_;
};

constexpr std::string_view kNoPass =
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 1200 60' width='1200' height='60'>\n"
    "<rect width='100%' height='100%' fill='#fff'/><text x='16' y='36' font-family='sans-serif'>No pass has "
    "ended.</text>\n"
    "</svg>\n";

}  // namespace

void write_timeline(const Trace& trace, std::ostream& out) {
  const std::vector<TraceEvent> events = trace.events();
  const TraceEvent* last = nullptr;
  for (const TraceEvent& event : events) {
    if (event.kind == Kind::kPass) last = &event;
  }
  out << (last != nullptr ? Timeline(trace, *last, events).draw() : kNoPass);
}

}  // namespace tierstream
