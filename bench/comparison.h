#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tools/raw_reader.h"
#include "tools/timing.h"

namespace tierstream {

/// Counters: `name`, the median of `values`, and `name`_q1 and `name`_q3, their quartiles.
void report(benchmark::State& state, const std::string& name, std::span<const double> values);

/// A way to move bytes that the subject of a bench is compared with.
struct Ceiling {
  std::string name;
  TimedRun run;
};

/// Measures a subject beside one or two ceilings, which move the same `bytes`. Disks and shared machines
/// drift within seconds, so in each of the state's iterations they run as subject, ceiling, other ceiling (or
/// the same again), subject; the two ceilings swap places from one iteration to the next.
///
/// Of the ceilings the higher one counts. Counters: `GiB/s` and `ceiling_GiB/s` by the median time of each;
/// `ratio`, the median over adjacent pairs of ceiling time / subject time, and `ratio_q1`, `ratio_q3`, its
/// quartiles. Returns the name of the ceiling.
std::string compare(benchmark::State& state, std::uint64_t bytes, const TimedRun& subject,
                    std::span<const Ceiling> ceilings);

/// Seconds until both have ended, run at the same time: `other` on a thread of its own. Throws what they
/// throw.
double seconds_beside(const TimedRun& run, const TimedRun& other);

/// One of two things that a subject does at the same time, such as computing and copying.
struct Part {
  std::string counter;  ///< "link" gives the counters `link_ms` and `of_link`
  Ceiling alone;
};

/// Measures a subject beside the longer of its two parts, which in each iteration run one after the other, in
/// turns with the subject as in `compare`. `at_once` runs both parts at the same time: where they share cores
/// or memory, neither is then as fast as alone.
///
/// Counters besides those of `compare`: of each part its median time, and the subject's median over it; with
/// `at_once` the `beside_ratio`, its median time over the subject's. Returns the name of the ceiling.
std::string compare_with_longer(benchmark::State& state, std::uint64_t bytes, const TimedRun& subject,
                                const Part& one, const Part& other, const TimedRun& at_once = {});

/// Readings of one range of a file as ceilings. `prepare` runs before each, untimed: it makes or checks the
/// file's cache state.
std::vector<Ceiling> raw_ceilings(const std::string& file, const ByteRange& range,
                                  std::span<const RawReading> readings, const std::function<void()>& prepare);

}  // namespace tierstream
