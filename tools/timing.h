#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace tierstream {

/// The value below which `share` of `values` lie; 0.5 is the median. Interpolates. `values` is not empty.
double quantile(std::span<const double> values, double share);

/// Seconds that `work` takes.
double seconds_of(const std::function<void()>& work);

/// For people: "1.234 s"; what takes no time worth that, such as a pass over layers that are all there, as
/// "56 us".
std::string format_seconds(double seconds);

/// Something measured: does it once and returns its seconds.
using TimedRun = std::function<double()>;

/// Runs each of `runs` `rounds` times, forwards and backwards in turns: disks and shared machines drift
/// within seconds, and one that has rested may be faster for a while. `after_run` is told how many runs of
/// how many are done; it may throw to stop. Returns the seconds of each run, in the order of `runs`.
std::vector<std::vector<double>> take_turns(
    std::span<const TimedRun> runs, unsigned rounds,
    const std::function<void(std::size_t, std::size_t)>& after_run = {});

}  // namespace tierstream
