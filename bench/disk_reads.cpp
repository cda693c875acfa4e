// How fast does each storage backend read a cold file, 1 MiB a request, beside the best raw O_DIRECT reading
// of the same file?

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>

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

struct Subject {
  const char* name;
  std::unique_ptr<StorageBackend> (*make)(const StorageOptions&);
  CacheUse cache;
  bool registers_buffers;
};
constexpr std::array kSubjects = {
    Subject{"io_uring/direct/registered", make_io_uring_backend, CacheUse::kDirect, true},
    Subject{"io_uring/direct/unregistered", make_io_uring_backend, CacheUse::kDirect, false},
    Subject{"posix/direct", make_posix_backend, CacheUse::kDirect, false},
    Subject{"io_uring/buffered", make_io_uring_backend, CacheUse::kBuffered, false},
    Subject{"posix/buffered", make_posix_backend, CacheUse::kBuffered, false},
};

void measure(benchmark::State& state, const BenchCheckpoint& checkpoint, const Subject& subject,
             std::span<const RawReading> readings) {
  const std::string& file = checkpoint.file();
  std::string path;
  const auto run = [&] {
    make_cold(file);
    FileReading reading(subject.make({.cache = subject.cache, .max_in_flight = FileReading::kRequests}), file,
                        subject.registers_buffers);
    const double seconds = seconds_of([&] { reading.run(); });
    if (subject.cache == CacheUse::kDirect) check_cold(file);
    path = describe(reading.path());
    return seconds;
  };
  const auto ceilings = raw_ceilings(file, {0, checkpoint.bytes()}, readings, [&] { make_cold(file); });
  const std::string ceiling = compare(state, checkpoint.bytes(), run, ceilings);
  state.SetLabel(path + "; ceiling " + ceiling);
}

void add_benchmarks(BenchProgram& program, const BenchCheckpoint& checkpoint) {
  make_cold(checkpoint.file());
  const RawSweep raw =
      sweep_direct(checkpoint.file(), {0, checkpoint.bytes()}, {.memory_bytes = FileReading::kMemoryBytes});
  benchmark::AddCustomContext("raw readings", describe(raw));
  for (const Subject& subject : kSubjects) {
    program.add(fmt::format("disk_reads/{}/cache:cold", subject.name),
                [&, readings = best_of_each_way(raw)](benchmark::State& state) {
                  measure(state, checkpoint, subject, readings);
                });
  }
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program(
      "How fast does each storage backend read a cold file, beside the best raw reading of it?");
  const FileOptions options(program, 1u << 30);
  std::optional<BenchCheckpoint> checkpoint;
  return program.run(argc, argv, [&] {
    checkpoint.emplace(options, kLayers);
    add_benchmarks(program, *checkpoint);
  });
}
