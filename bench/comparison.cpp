#include "bench/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>

namespace tierstream {
namespace {

double gib_per_second(std::uint64_t bytes, std::span<const double> seconds) {
  return static_cast<double>(bytes) / 0x1p30 / quantile(seconds, 0.5);
}

/// A subject and one ceiling, each time run one directly after the other.
struct Pairs {
  std::vector<double> ceiling_seconds;
  std::vector<double> ratios;

  void add(double subject_seconds, double seconds) {
    ceiling_seconds.push_back(seconds);
    ratios.push_back(seconds / subject_seconds);
  }
};

}  // namespace

void report(benchmark::State& state, const std::string& name, std::span<const double> values) {
  state.counters[name] = quantile(values, 0.5);
  state.counters[name + "_q1"] = quantile(values, 0.25);
  state.counters[name + "_q3"] = quantile(values, 0.75);
}

std::string compare(benchmark::State& state, std::uint64_t bytes, const TimedRun& subject,
                    std::span<const Ceiling> ceilings) {
  std::vector<double> subject_seconds;
  std::vector<Pairs> pairs(ceilings.size());
  std::size_t turn = 0;
  for ([[maybe_unused]] auto iteration : state) {
    const std::size_t first = turn++ % ceilings.size();
    const std::size_t second = turn % ceilings.size();
    const double subject_before = subject();
    pairs[first].add(subject_before, ceilings[first].run());
    const double second_seconds = ceilings[second].run();
    const double subject_after = subject();
    pairs[second].add(subject_after, second_seconds);
    subject_seconds.insert(subject_seconds.end(), {subject_before, subject_after});
    state.SetIterationTime((subject_before + subject_after) / 2);
  }
  const auto highest =
      std::ranges::min_element(pairs, {}, [](const Pairs& p) { return quantile(p.ratios, 0.5); });
  state.counters["GiB/s"] = gib_per_second(bytes, subject_seconds);
  state.counters["ceiling_GiB/s"] = gib_per_second(bytes, highest->ceiling_seconds);
  report(state, "ratio", highest->ratios);
  return ceilings[static_cast<std::size_t>(highest - pairs.begin())].name;
}

double seconds_beside(const TimedRun& run, const TimedRun& other) {
  return seconds_of([&] {
    auto beside = std::async(std::launch::async, other);
    run();
    beside.get();
  });
}

std::string compare_with_longer(benchmark::State& state, std::uint64_t bytes, const TimedRun& subject,
                                const Part& one, const Part& other, const TimedRun& at_once) {
  std::vector<double> subject_seconds;
  std::vector<double> one_seconds;
  std::vector<double> other_seconds;
  std::vector<double> both_seconds;
  const Ceiling longer{fmt::format("the longer of {} and {}", one.alone.name, other.alone.name), [&] {
                         if (at_once) both_seconds.push_back(at_once());
                         one_seconds.push_back(one.alone.run());
                         other_seconds.push_back(other.alone.run());
                         return std::max(one_seconds.back(), other_seconds.back());
                       }};
  const auto run = [&] { return subject_seconds.emplace_back(subject()); };
  std::string name = compare(state, bytes, run, {&longer, 1});
  const double subject_median = quantile(subject_seconds, 0.5);
  const auto report_part = [&](const Part& part, std::span<const double> seconds) {
    state.counters[part.counter + "_ms"] = 1e3 * quantile(seconds, 0.5);
    state.counters["of_" + part.counter] = subject_median / quantile(seconds, 0.5);
  };
  report_part(one, one_seconds);
  report_part(other, other_seconds);
  if (at_once) state.counters["beside_ratio"] = quantile(both_seconds, 0.5) / subject_median;
  return name;
}

std::vector<Ceiling> raw_ceilings(const std::string& file, const ByteRange& range,
                                  std::span<const RawReading> readings,
                                  const std::function<void()>& prepare) {
  std::vector<Ceiling> ceilings;
  for (const RawReading& reading : readings) {
    ceilings.push_back({describe(reading), raw_run(file, {range}, reading, {.prepare = prepare})});
  }
  return ceilings;
}

}  // namespace tierstream
