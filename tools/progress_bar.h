#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

namespace tierstream {

/// One line: label, bar, per cent, rate, time left; at most `columns` wide.
std::string format_progress(const std::string& label, std::uint64_t done_bytes, std::uint64_t total_bytes,
                            double seconds, std::size_t columns);

/// Shows how far a job of known bytes has come, on one line of a terminal that it wipes at its end.
///
///   ProgressBar bar("writing", total_bytes);
///   bar.update(done_bytes);  // as often as one likes
///
/// Silent when `terminal` is none, and for the job's first second: what is done by then needs no bar.
/// Threads: one at a time.
class ProgressBar {
 public:
  using Clock = std::chrono::steady_clock;

  ProgressBar(std::string label, std::uint64_t total_bytes, std::FILE* terminal = stderr,
              std::function<Clock::time_point()> now = Clock::now);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();

  void update(std::uint64_t done_bytes);

 private:
  std::string label_;
  std::uint64_t total_bytes_;
  std::FILE* terminal_;  ///< null: silent
  std::function<Clock::time_point()> now_;
  Clock::time_point begin_;
  Clock::time_point next_drawing_;
  bool drawn_ = false;
};

/// The bar of what is done now, where there are several jobs, one after the other. Threads: one at a time.
class JobBar {
 public:
  void update(const std::string& job, std::uint64_t done_bytes, std::uint64_t total_bytes);

 private:
  std::string job_;
  std::optional<ProgressBar> bar_;
};

}  // namespace tierstream
