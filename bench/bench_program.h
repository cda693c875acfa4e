#pragma once

#include <benchmark/benchmark.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>

namespace tierstream {

/// The main function of a bench: command line, what every result has to say (machine, revision), and an exit
/// code that is not 0 when a result could not be had.
///
///   BenchProgram program("How fast does ... ?");
///   program.command_line().add_option(...);
///   return program.run(argc, argv, [&] { program.add("name", [](benchmark::State& state) { ... }); });
///
/// Threads: the main one.
class BenchProgram {
 public:
  explicit BenchProgram(const std::string& question);

  CLI::App& command_line() noexcept { return command_line_; }

  /// What it does not know itself goes to Google Benchmark. `add_benchmarks` is called once the options are
  /// known. Returns the exit code: 0, 1 when a benchmark failed, 2 for wrong input.
  int run(int argc, char** argv, const std::function<void()>& add_benchmarks);

  /// A benchmark of rounds() iterations that sets their time itself. One that throws has failed.
  void add(const std::string& name, std::function<void(benchmark::State&)> body);

  /// Small sizes and few rounds, to see that the bench works; figures are for quoting only without it.
  bool quick() const noexcept { return quick_; }
  std::uint32_t rounds() const noexcept { return rounds_ != 0 ? rounds_ : quick_ ? 3 : 10; }

 private:
  int run_benchmarks(char* program_name);

  CLI::App command_line_;
  bool quick_ = false;
  std::uint32_t rounds_ = 0;  // 0: by quick_
  bool failed_ = false;
};

}  // namespace tierstream
