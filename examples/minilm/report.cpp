#include "report.h"

#include <ATen/ops/equal.h>
#include <fmt/format.h>
#include <tierstream/tiers/budget.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/path_report.h"
#include "tools/run_report.h"

namespace tierstream::minilm {
namespace {

using nlohmann::json;

constexpr std::size_t kColumns = 80;
constexpr std::size_t kMaxSimilarityColumns = 8;
constexpr std::size_t kLabelColumns = 26;
constexpr std::size_t kRunColumns = 17;

bool is_equal(const Run& run, const Run& reference) {
  return run.repeats && at::equal(run.embeddings, reference.embeddings);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Budget used(const StreamingReport& report) {
  return BudgetShares{report.layers.used, report.words.used}.total();
}

std::string describe_slots(const Plan& plan) {
  return fmt::format("{} for {}", plan.slots, plan.layers.size());
}

std::string milliseconds(double seconds) { return fmt::format("{:.1f} ms", seconds * 1e3); }

/// `text` on one line of at most `columns` characters.
std::string fit(std::string text, std::size_t columns) {
  std::size_t characters = 0;
  std::size_t cut = text.size();
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (static_cast<unsigned char>(text[i]) < ' ') text[i] = ' ';
    const bool continues_character = (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80;
    if (!continues_character && ++characters == columns) cut = i;
  }
  return characters <= columns ? text : text.substr(0, cut) + "…";
}

std::string describe_similarities(const Results& results) {
  const at::Tensor& embeddings = results.runs.front().embeddings;
  const at::Tensor similarities = embeddings.matmul(embeddings.t()).contiguous();
  const auto values = similarities.accessor<float, 2>();
  const std::size_t rows = results.input.sentences.size();
  const std::size_t columns = std::min(rows, kMaxSimilarityColumns);

  std::string text = "Similarity (cosine)\n   ";
  for (std::size_t column = 0; column < columns; ++column) text += fmt::format("{:>6}", column + 1);
  text += "\n";
  for (std::size_t row = 0; row < rows; ++row) {
    text += fmt::format("{:>3}", row + 1);
    for (std::size_t column = 0; column < columns; ++column) {
      text +=
          fmt::format("{:>6.2f}", values[static_cast<std::int64_t>(row)][static_cast<std::int64_t>(column)]);
    }
    text += "  " + fit(results.input.sentences[row], kColumns - 5 - 6 * columns) + "\n";
  }
  return text;
}

/// The runs side by side, a line at a time.
class RunTable {
 public:
  explicit RunTable(std::span<const Run> runs) : runs_(runs) {}

  /// `cell` gives a run's text.
  template <class Cell>
  void add_row(std::string_view label, Cell&& cell) {
    text_ += fmt::format("{:<{}}", label, kLabelColumns);
    for (const Run& run : runs_) text_ += fmt::format("{:>{}}", cell(run), kRunColumns);
    text_ += "\n";
  }
  /// `cell` gives a streamed run's text.
  template <class Cell>
  void add_streamed_row(std::string_view label, Cell&& cell) {
    add_row(label, [&](const Run& run) { return run.streaming ? cell(*run.streaming) : std::string("-"); });
  }
  void add_bytes_row(std::string_view label, std::uint64_t TierBytes::*tier) {
    add_streamed_row(
        label, [&](const StreamingReport& report) { return format_bytes(report.passes.back().bytes.*tier); });
  }
  void add_stall_row(std::string_view label, double StallSeconds::*cause) {
    add_streamed_row(label, [&](const StreamingReport& report) {
      std::vector<double> seconds;
      for (const PassStats& pass : report.passes) seconds.push_back(pass.stall.*cause);
      return milliseconds(median(seconds));
    });
  }

  const std::string& text() const noexcept { return text_; }

 private:
  std::span<const Run> runs_;
  std::string text_;
};

std::string describe_runs(const Results& results) {
  RunTable table(results.runs);
  table.add_row("Runs", [](const Run& run) { return run.name; });
  table.add_row("gpu budget", [&](const Run& run) {
    return run.streaming ? format_bytes(used(*run.streaming).gpu) : "all loaded";
  });
  table.add_row("  of the weights' bytes", [&](const Run& run) {
    const std::uint64_t bytes = run.streaming ? used(*run.streaming).gpu : results.weight_bytes;
    return fmt::format("{:.0f} %",
                       100.0 * static_cast<double>(bytes) / static_cast<double>(results.weight_bytes));
  });
  table.add_streamed_row("  slots for layers",
                         [](const StreamingReport& report) { return describe_slots(report.layers); });
  table.add_streamed_row("  slots for word blocks",
                         [](const StreamingReport& report) { return describe_slots(report.words); });
  table.add_streamed_row("pinned budget",
                         [](const StreamingReport& report) { return format_bytes(used(report).pinned); });
  table.add_row("first pass", [](const Run& run) { return milliseconds(run.seconds.front()); });
  table.add_row("a pass (median)", [](const Run& run) { return milliseconds(median(run.seconds)); });
  table.add_stall_row("  waited for disk", &StallSeconds::disk);
  table.add_stall_row("  waited for the ring", &StallSeconds::ring);
  table.add_stall_row("  waited for copies", &StallSeconds::copy);
  table.add_stall_row("  waited for slots", &StallSeconds::slot);
  table.add_bytes_row("a pass takes from disk", &TierBytes::disk);
  table.add_bytes_row("  from the page cache", &TierBytes::page_cache);
  table.add_bytes_row("  from pinned memory", &TierBytes::pinned);
  table.add_bytes_row("  from the device itself", &TierBytes::gpu);
  table.add_streamed_row("peak gpu", [](const StreamingReport& r) { return format_bytes(r.peak_bytes.gpu); });
  table.add_streamed_row("peak pinned",
                         [](const StreamingReport& r) { return format_bytes(r.peak_bytes.pinned); });
  table.add_row("output", [&](const Run& run) {
    if (&run == &results.runs.front()) return run.repeats ? "reference" : "VARIES";
    return is_equal(run, results.runs.front()) ? "bit-equal" : "DIFFERS";
  });
  return table.text();
}

/// Once for all streamed runs where they took the same way.
std::string describe_paths(std::span<const Run> runs) {
  std::string text;
  std::string last;
  for (const Run& run : runs) {
    if (!run.streaming) continue;
    const std::string lines = describe_path(run.streaming->path, run.streaming->ring_refusal);
    if (std::exchange(last, lines) == lines) continue;
    for (std::size_t begin = 0, end = 0; begin < lines.size(); begin = end + 1) {
      end = lines.find('\n', begin);
      text += fit(lines.substr(begin, end - begin), kColumns) + "\n";
    }
  }
  return text;
}

json to_json(const Run& run) {
  json object{{"name", run.name}, {"pass_seconds", run.seconds}};
  const at::Tensor embeddings = run.embeddings.contiguous();
  for (std::int64_t row = 0; row < embeddings.size(0); ++row) {
    const at::Tensor values = embeddings[row];
    object["embeddings"].emplace_back(
        std::vector<float>(values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()));
  }
  if (run.streaming) {
    const StreamingReport& report = *run.streaming;
    object["budget"] = {{"gpu", used(report).gpu}, {"pinned", used(report).pinned}};
    object["slots"] = {{"layers", report.layers.slots}, {"words", report.words.slots}};
    object["path"] = path_to_json(report.path, report.ring_refusal);
    object["path"]["ring_registered"] = report.ring_refusal.empty();
    object["peak_bytes"] = {{"gpu", report.peak_bytes.gpu}, {"pinned", report.peak_bytes.pinned}};
    for (const PassStats& pass : report.passes) {
      object["passes"].push_back({{"seconds", pass.seconds},
                                  {"bytes", tierstream::to_json(pass.bytes)},
                                  {"stall_seconds", tierstream::to_json(pass.stall)}});
    }
  }
  return object;
}

}  // namespace

bool are_bit_equal(std::span<const Run> runs) {
  return std::ranges::all_of(runs, [&](const Run& run) { return is_equal(run, runs.front()); });
}

std::string describe(const Results& results) {
  return describe_similarities(results) + "\n" + describe_runs(results) + "\n" + describe_paths(results.runs);
}

std::string to_json(const Results& results) {
  json object{{"sentences", results.input.sentences},
              {"token_ids", results.input.token_ids},
              {"weight_bytes", results.weight_bytes},
              {"bit_equal", are_bit_equal(results.runs)}};
  for (const Run& run : results.runs) object["runs"].push_back(to_json(run));
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace tierstream::minilm
