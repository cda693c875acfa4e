#include "tools/plan_picture.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>

#include "tools/timing.h"

namespace tierstream {
namespace {

// Pixels.
constexpr double kWidth = 1200;
constexpr double kPlotLeft = 84;
constexpr double kPlotRight = 1184;
constexpr double kPlotTop = 78;
constexpr double kPlotBottom = 398;
constexpr double kLegendTop = 452;
constexpr double kLegendWidth = 290;
constexpr double kLeastTickDistance = 26;
constexpr double kMostColumnWidth = 60;

// Classes `h0` to `h3`: the kinds of homes.
constexpr std::string_view kStyle = R"(<style>
text{font-family:system-ui,'DejaVu Sans',sans-serif;font-size:12px;fill:#24292f}
.title{font-size:16px;font-weight:bold}.minor{fill:#656d76}
.x{font-size:11px;fill:#656d76;text-anchor:middle}.y{font-size:11px;fill:#656d76;text-anchor:end}
.grid{stroke:#d8dee4}.h0{fill:#2d8a47}.h1{fill:#8a63d2}.h2{fill:#2aa5b0}.h3{fill:#e0912f}
</style>
)";

class PlanPicture {
 public:
  explicit PlanPicture(const PlanReport& report)
      : report_(report), kinds_(home_kinds(report.plan)), sum_(sum_of(report.layer_homes)) {
    for (const LayerHomes& layer : report.layer_homes) most_bytes_ = std::max(most_bytes_, layer.total());
    column_width_ =
        std::min((kPlotRight - kPlotLeft) / static_cast<double>(report.layer_homes.size()), kMostColumnWidth);
  }

  std::string draw() {
    const double height = kLegendTop + 44;
    add("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {0:.0f} {1:.0f}' width='{0:.0f}' "
        "height='{1:.0f}'>\n",
        kWidth, height);
    svg_ += kStyle;
    svg_ += "<rect width='100%' height='100%' fill='#fff'/>\n";
    draw_title();
    draw_scales();
    for (std::size_t i = 0; i < report_.layer_homes.size(); ++i) draw_layer(i);
    draw_legend();
    svg_ += "</svg>\n";
    return std::move(svg_);
  }

 private:
  template <typename... Arguments>
  void add(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    fmt::format_to(std::back_inserter(svg_), format, std::forward<Arguments>(arguments)...);
  }

  double left_of(std::size_t layer) const { return kPlotLeft + column_width_ * static_cast<double>(layer); }
  double height_of(std::uint64_t bytes) const {
    return (kPlotBottom - kPlotTop) * static_cast<double>(bytes) / static_cast<double>(most_bytes_);
  }

  void draw_title() {
    const Plan& plan = report_.plan;
    add("<text class='title' x='16' y='28'>{}, {}, and {} outside, within gpu {}, pinned {}, "
        "page_cache {}</text>\n",
        counted(report_.layer_homes.size(), "layer"), format_bytes(sum_.total()),
        format_bytes(report_.outside_bytes), format_bytes(plan.used.gpu), format_bytes(plan.used.pinned),
        format_bytes(plan.used.page_cache));
    add("<text class='minor' x='16' y='50'>a pass, from the second on, reads {} from storage and copies {} "
        "to the device",
        format_bytes(plan.disk_bytes), format_bytes(plan.copied_bytes));
    if (plan.predicted_seconds > 0) {
      add(": {} predicted, bound by {}", format_seconds(plan.predicted_seconds), plan.binding);
    }
    svg_ += "</text>\n";
  }

  void draw_scales() {
    if (most_bytes_ > 0) {
      const std::uint64_t step = std::max<std::uint64_t>(std::bit_floor(most_bytes_ / 4), 1);
      for (std::uint64_t bytes = 0; bytes <= most_bytes_; bytes += step) {
        const double y = kPlotBottom - height_of(bytes);
        add("<path class='grid' d='M{:.0f} {:.1f}H{:.0f}'/><text class='y' x='{:.0f}' "
            "y='{:.1f}'>{}</text>\n",
            kPlotLeft, y, kPlotRight, kPlotLeft - 8, y + 4, format_bytes(bytes));
      }
    }
    for (std::size_t i = 0; i < report_.layer_homes.size(); i += tick_step()) {
      add("<text class='x' x='{:.1f}' y='{:.0f}'>{}</text>\n", left_of(i) + column_width_ / 2,
          kPlotBottom + 16, i);
    }
    add("<text class='minor' x='{:.0f}' y='{:.0f}'>layer</text>\n", kPlotLeft, kPlotBottom + 34);
  }

  /// 1, 2 or 5 times a power of ten.
  std::size_t tick_step() const {
    for (std::size_t power = 1;; power *= 10) {
      for (const std::size_t step : {power, 2 * power, 5 * power}) {
        if (static_cast<double>(step) * column_width_ >= kLeastTickDistance) return step;
      }
    }
  }

  void draw_layer(std::size_t index) {
    const LayerHomes& layer = report_.layer_homes[index];
    const double gap = std::min(2.0, column_width_ * 0.15);
    add("<g><title>layer {}: {}", index, format_bytes(layer.total()));
    for (const HomeKind& kind : kinds_) {
      if (layer.*kind.bytes != 0) add("&#10;{} {}", format_bytes(layer.*kind.bytes), kind.name);
    }
    svg_ += "</title>";
    double bottom = kPlotBottom;
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      const double height = height_of(layer.*kinds_[i].bytes);
      if (layer.*kinds_[i].bytes == 0) continue;
      bottom -= height;
      add("<rect class='h{}' x='{:.2f}' y='{:.2f}' width='{:.2f}' height='{:.2f}'/>", i, left_of(index),
          bottom, column_width_ - gap, height);
    }
    svg_ += "</g>\n";
  }

  void draw_legend() {
    double x = kPlotLeft;
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      const std::uint64_t bytes = sum_.*kinds_[i].bytes;
      if (bytes == 0) continue;
      const double share = 100 * static_cast<double>(bytes) / static_cast<double>(sum_.total());
      add("<rect class='h{}' x='{:.0f}' y='{:.0f}' width='12' height='12'/><text x='{:.0f}' "
          "y='{:.0f}'>{}</text><text class='minor' x='{:.0f}' y='{:.0f}'>{}, {:.0f} %</text>\n",
          i, x, kLegendTop, x + 18, kLegendTop + 11, kinds_[i].name, x + 18, kLegendTop + 28,
          format_bytes(bytes), share);
      x += kLegendWidth;
    }
  }

  const PlanReport& report_;
  const std::array<HomeKind, 4> kinds_;
  const LayerHomes sum_;
  std::uint64_t most_bytes_ = 0;
  double column_width_ = 0;
  std::string svg_;
};

}  // namespace

void write_plan_picture(const PlanReport& report, std::ostream& out) { out << PlanPicture(report).draw(); }

}  // namespace tierstream
