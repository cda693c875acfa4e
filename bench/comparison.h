#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace tierstream {

/// The value below which `share` of `values` lie; 0.5 is the median. Interpolates.
double quantile(std::span<const double> values, double share);

/// Seconds that `work` takes.
double seconds_of(const std::function<void()>& work);

/// A way to move bytes that the subject of a bench is compared with.
struct Ceiling {
  std::string name;
  std::function<double()> run;  ///< returns its seconds
};

/// Measures a subject beside one or two ceilings, which move the same `bytes`. Disks and shared machines
/// drift within seconds, so in each of the state's iterations they run as subject, ceiling, other ceiling (or
/// the same again), subject; the two ceilings swap places from one iteration to the next.
///
/// Of the ceilings the higher one counts. Counters: `GiB/s` and `ceiling_GiB/s` by the median time of each;
/// `ratio`, the median over adjacent pairs of ceiling time / subject time, and `ratio_q1`, `ratio_q3`, its
/// quartiles. Returns the name of the ceiling.
std::string compare(benchmark::State& state, std::uint64_t bytes, const std::function<double()>& subject,
                    std::span<const Ceiling> ceilings);

}  // namespace tierstream
