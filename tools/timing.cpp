#include "tools/timing.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace tierstream {

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

std::string format_seconds(double seconds) {
  return seconds > 0 && seconds < 0.0005 ? fmt::format("{:.0f} us", seconds * 1e6)
                                         : fmt::format("{:.3f} s", seconds);
}

std::vector<std::vector<double>> take_turns(std::span<const TimedRun> runs, unsigned rounds,
                                            const std::function<void(std::size_t, std::size_t)>& after_run) {
  std::vector<std::vector<double>> seconds(runs.size());
  std::size_t done = 0;
  for (unsigned round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const std::size_t turn = round % 2 == 0 ? i : runs.size() - 1 - i;
      seconds[turn].push_back(runs[turn]());
      if (after_run) after_run(++done, rounds * runs.size());
    }
  }
  return seconds;
}

}  // namespace tierstream
