#include "bench/bench_program.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <thread>
#include <utility>
#include <vector>

#include "revision.h"

namespace tierstream {
namespace {

std::string processor() {
  constexpr const char* kKey = "model name";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with(kKey)) return line.substr(std::min(line.find(": ") + 2, line.size()));
  }
  return "unknown processor";
}

void describe_machine() {
  utsname system{};
  ::uname(&system);
  benchmark::AddCustomContext("machine", processor() + ", " +
                                             std::to_string(std::thread::hardware_concurrency()) +
                                             " threads, " + system.sysname + " " + system.release);
  benchmark::AddCustomContext("tierstream", std::string(TIERSTREAM_REVISION) + ", " TIERSTREAM_BUILD_TYPE);
}

}  // namespace

BenchProgram::BenchProgram(const std::string& question) : command_line_(question) {
  command_line_.allow_extras();
  command_line_.footer("Other options go to Google Benchmark, e.g. --benchmark_filter=REGEX");
  command_line_.add_flag("--quick", quick_, "Small sizes and few rounds: figures are not for quoting");
  command_line_.add_option("--rounds", rounds_, "A-B-B-A rounds per result (default: 10; quick: 3)")
      ->check(CLI::Range(1u, 10'000u));
}

int BenchProgram::run(int argc, char** argv, const std::function<void()>& add_benchmarks) try {
  command_line_.parse(argc, argv);
  describe_machine();
  add_benchmarks();
  return run_benchmarks(argv[0]);
} catch (const CLI::ParseError& error) {
  return command_line_.exit(error) == 0 ? 0 : 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}

int BenchProgram::run_benchmarks(char* program_name) {
  std::vector<std::string> extras = command_line_.remaining();
  std::vector<char*> arguments = {program_name};
  for (std::string& extra : extras) arguments.push_back(extra.data());
  auto count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  const std::size_t ran = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return ran == 0 || failed_ ? 1 : 0;
}

void BenchProgram::add(const std::string& name, std::function<void(benchmark::State&)> body) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [this, body = std::move(body)](benchmark::State& state) {
                                 try {
                                   body(state);
                                 } catch (const std::exception& error) {
                                   failed_ = true;
                                   state.SkipWithError(error.what());
                                 }
                               })
      ->UseManualTime()
      ->Iterations(rounds())
      ->Unit(benchmark::kMillisecond);
}

}  // namespace tierstream
