#include "bench/comparison.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace tierstream {
namespace {

double gib_per_second(std::uint64_t bytes, std::span<const double> seconds) {
  return static_cast<double>(bytes) / 0x1p30 / quantile(seconds, 0.5);
}

}  // namespace

double quantile(std::span<const double> values, double share) {
  std::vector<double> sorted(values.begin(), values.end());
  std::ranges::sort(sorted);
  const double position = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], position - std::floor(position));
}

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void compare(benchmark::State& state, std::uint64_t bytes, const std::function<double()>& subject,
             const std::function<double()>& ceiling) {
  std::vector<double> subjects;
  std::vector<double> ceilings;
  std::vector<double> ratios;
  const auto add_pair = [&](double subject_seconds, double ceiling_seconds) {
    subjects.push_back(subject_seconds);
    ceilings.push_back(ceiling_seconds);
    ratios.push_back(ceiling_seconds / subject_seconds);
  };
  for ([[maybe_unused]] auto iteration : state) {
    const double first = subject();
    const double second = ceiling();
    const double third = ceiling();
    const double fourth = subject();
    add_pair(first, second);
    add_pair(fourth, third);
    state.SetIterationTime((first + fourth) / 2);
  }
  state.counters["GiB/s"] = gib_per_second(bytes, subjects);
  state.counters["ceiling_GiB/s"] = gib_per_second(bytes, ceilings);
  state.counters["ratio"] = quantile(ratios, 0.5);
  state.counters["ratio_q1"] = quantile(ratios, 0.25);
  state.counters["ratio_q3"] = quantile(ratios, 0.75);
}

}  // namespace tierstream
