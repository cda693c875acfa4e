// What does io=auto cost beside io=direct where a file is cold, and beside io=buffered where it is warm?

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/tiers/budget.h>

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "bench/bench_checkpoint.h"
#include "bench/comparison.h"
#include "bench/file_reading.h"
#include "tools/page_cache.h"

namespace tierstream {
namespace {

constexpr std::uint32_t kLayers = 8;  // of the checkpoint; only its bytes matter here

struct Backend {
  const char* name;
  std::unique_ptr<StorageBackend> (*make)(const StorageOptions&);
};
constexpr std::array kBackends = {
    Backend{"io_uring", make_io_uring_backend},
    Backend{"posix", make_posix_backend},
};

/// Seconds to read the file in the state that it is in.
double read_file(const Backend& backend, CacheUse cache, const std::string& file, std::string& path) {
  FileReading reading(backend.make({.cache = cache, .max_in_flight = FileReading::kRequests}), file, true);
  const double seconds = seconds_of([&] { reading.run(); });
  path = fmt::format("{}, {} of {} from the page cache", describe(reading.path()),
                     format_bytes(reading.counters().cached_bytes), format_bytes(reading.counters().bytes));
  return seconds;
}

void measure(benchmark::State& state, const BenchCheckpoint& checkpoint, const Backend& backend, bool cold) {
  const std::string& file = checkpoint.file();
  const auto run = [&](CacheUse cache, std::string& path) {
    cold ? make_cold(file) : make_warm(file);
    const double seconds = read_file(backend, cache, file, path);
    if (cold) check_cold(file);
    return seconds;
  };
  std::string path;
  std::string ignored;
  const Ceiling forced{cold ? "io=direct" : "io=buffered",
                       [&] { return run(cold ? CacheUse::kDirect : CacheUse::kBuffered, ignored); }};
  const std::string ceiling =
      compare(state, checkpoint.bytes(), [&] { return run(CacheUse::kAuto, path); }, {&forced, 1});
  state.SetLabel(path + "; ceiling " + ceiling);
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("What does io=auto cost beside io=direct on a cold and io=buffered on a warm file?");
  const FileOptions options(program, 1u << 30);
  std::optional<BenchCheckpoint> checkpoint;
  return program.run(argc, argv, [&] {
    checkpoint.emplace(options, kLayers);
    for (const Backend& backend : kBackends) {
      for (const bool cold : {true, false}) {
        program.add(fmt::format("cached_reads/{}/cache:{}", backend.name, cold ? "cold" : "warm"),
                    [&, cold](benchmark::State& state) { measure(state, *checkpoint, backend, cold); });
      }
    }
  });
}
