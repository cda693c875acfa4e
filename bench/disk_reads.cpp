// How fast does each storage backend read a cold file, 1 MiB a request, beside the best raw O_DIRECT reading
// of the same file?

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/tiers/host_memory.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/bench_checkpoint.h"
#include "bench/comparison.h"
#include "tools/page_cache.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kRequestBytes = 1u << 20;
constexpr std::size_t kRequests = 16;  // in flight, as by default
constexpr std::uint64_t kMemoryBytes = kRequests * kRequestBytes;
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

/// Keeps a backend's queue full until the whole file is read. One thread.
class FileReading {
 public:
  FileReading(const Subject& subject, const std::string& file)
      : storage_(subject.make({.cache = subject.cache, .max_in_flight = kRequests})),
        file_(storage_->open(file)) {
    if (subject.registers_buffers) storage_->register_memory(memory_.span());
    for (std::size_t piece = 0; piece < kRequests; ++piece) free_.push_back(piece);
  }

  /// Throws Error kReadFailed when a read fails.
  void run() {
    const std::uint64_t end = storage_->info(file_).bytes;
    std::uint64_t next = 0;
    while (next < end || storage_->in_flight() > 0) {
      batch_.clear();
      for (; next < end && !free_.empty(); next += kRequestBytes) {
        batch_.push_back(
            {free_.back(), file_, next, memory_.span().subspan(free_.back() * kRequestBytes, kRequestBytes)});
        free_.pop_back();
      }
      storage_->submit(batch_);
      const std::size_t count = storage_->collect(completions_, std::chrono::nanoseconds::max());
      for (const Completion& completion : std::span(completions_).first(count)) {
        if (completion.error) {
          throw Error(Errc::kReadFailed, "read failed", {.file = storage_->path_of(file_)}, completion.error);
        }
        free_.push_back(completion.tag);
      }
    }
  }

  StoragePath path() const { return storage_->path(); }

 private:
  HostMemory memory_{kMemoryBytes};
  std::unique_ptr<StorageBackend> storage_;  // its end waits for reads that may still write to the memory
  FileId file_;
  std::vector<std::size_t> free_;  // pieces of the memory
  std::vector<ReadRequest> batch_;
  std::vector<Completion> completions_ = std::vector<Completion>(kRequests);
};

void measure(benchmark::State& state, const BenchCheckpoint& checkpoint, const Subject& subject,
             std::span<const RawReading> readings) {
  const std::string& file = checkpoint.file();
  std::string path;
  const auto run = [&] {
    make_cold(file);
    FileReading reading(subject, file);
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
      sweep_direct(checkpoint.file(), {0, checkpoint.bytes()}, {.memory_bytes = kMemoryBytes});
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
