#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace tierstream {

/// The value below which `share` of `values` lie; 0.5 is the median. Interpolates.
double quantile(std::span<const double> values, double share);

/// Seconds that `work` takes.
double seconds_of(const std::function<void()>& work);

/// Measures a subject beside its ceiling: two ways to move the same `bytes`, in turn as A-B-B-A in each of
/// the state's iterations, because disks and shared machines drift within seconds. Both return their seconds.
///
/// Counters: `GiB/s` and `ceiling_GiB/s` by the median time of each; `ratio`, the median over
/// adjacent pairs of ceiling time / subject time, and `ratio_q1`, `ratio_q3`, its quartiles.
void compare(benchmark::State& state, std::uint64_t bytes, const std::function<double()>& subject,
             const std::function<double()>& ceiling);

}  // namespace tierstream
