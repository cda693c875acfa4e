// What do a token and a prompt of 512 tokens cost, with a Llama of 1 B parameters on the CPU device, while
// its weights are resident through tierstream, used in place in the page cache, half streamed, and all
// streamed, from a warm page cache and from a cold disk? Beside plain LibTorch with its weights resident, and
// LibTorch over mapped weights.

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "bench/bench_checkpoint.h"
#include "bench/comparison.h"
#include "bench/llama_work.h"
#include "tools/page_cache.h"

namespace tierstream {
namespace {

using llama::LlamaFiles;
using llama::LlamaRun;
using llama::ResidentLlama;
using llama::StreamedLlama;

constexpr std::uint64_t kRingBytes = 64u << 20;
constexpr std::uint64_t kPlenty = std::uint64_t{1} << 62;
constexpr std::int64_t kTokensBefore = 128;  // that a single token sees

SyntheticSpec weights_of(bool quick) {
  // The shapes of Llama 3.2 1B, but for its vocabulary, whose table is not streamed.
  if (!quick) return {.layers = 16, .hidden = 2048, .intermediate = 8192, .vocabulary = 4096};
  return {.layers = 8, .hidden = 1024, .intermediate = 3072, .vocabulary = 1024};
}

/// Plain LibTorch over a private, read-only mapping of the file: the kernel brings pages as they are touched.
class MappedWeights {
 public:
  MappedWeights(const LlamaFiles& files, const std::string& file) {
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    bytes_ = std::filesystem::file_size(file);
    if (descriptor >= 0) data_ = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const std::error_code cause(errno, std::generic_category());
    ::close(descriptor);
    if (data_ == MAP_FAILED) throw Error(Errc::kOpenFailed, "cannot be mapped", {.file = file}, cause);
    llama::Llama model(files.config, files.dtype);
    for (auto& parameter : model->named_parameters()) {
      const CheckpointTensor& tensor = *files.checkpoint.find(parameter.key());
      parameter.value().set_data(
          at::from_blob(static_cast<std::byte*>(data_) + tensor.offset, tensor.shape, files.dtype));
    }
    weights_.emplace(model);
  }
  MappedWeights(const MappedWeights&) = delete;
  MappedWeights& operator=(const MappedWeights&) = delete;
  ~MappedWeights() {
    weights_.reset();
    ::munmap(data_, bytes_);
  }
  LlamaRun& operator*() { return *weights_; }

 private:
  void* data_ = MAP_FAILED;
  std::size_t bytes_ = 0;
  std::optional<ResidentLlama> weights_;
};

struct Case {
  const char* name;
  double resident_share;  ///< of the layers, on the device
  bool in_place;
  bool cold;
};
constexpr std::array kCases = {
    Case{"resident", 1, false, false},          Case{"in_place", 0, true, false},
    Case{"half/cache:warm", 0.5, false, false}, Case{"all/cache:warm", 0, false, false},
    Case{"half/cache:cold", 0.5, false, true},  Case{"all/cache:cold", 0, false, true},
};

Budget budget_of(const Case& how, const LlamaFiles& files) {
  if (how.resident_share == 1) return {.gpu = kPlenty, .pinned = kRingBytes};
  const LayerTable table = files.table();
  const Plan plan = make_plan(table, {.gpu = kPlenty, .pinned = kRingBytes}, {}, {.reads_land = true});
  std::uint64_t layer_bytes = 0;
  for (const Layer& layer : table.layers) layer_bytes += layer.bytes();
  const double slots = 3 * (1 - how.resident_share) * static_cast<double>(plan.largest_slot_bytes);
  const double residents = how.resident_share * static_cast<double>(layer_bytes);
  return {.gpu = plan.outside.slot_bytes + static_cast<std::uint64_t>(slots + residents),
          .pinned = kRingBytes,
          .page_cache = how.in_place ? kPlenty : 0};
}

class LlamaBench {
 public:
  LlamaBench(BenchProgram& program, const std::string& directory, std::optional<unsigned> copy_threads)
      : spec_(weights_of(program.quick())),
        checkpoint_(directory, spec_),
        copy_threads_(copy_threads),
        files_(open_llama(checkpoint_, spec_, {.threads = copy_threads})),
        plain_(files_, at::kCPU),
        range_(range_of(files_.table())) {
    works_.emplace_back("token", files_, 1, kTokensBefore, plain_, at::kCPU);
    works_.emplace_back("prompt", files_, program.quick() ? 64 : 512, 0, plain_, at::kCPU);
    benchmark::AddCustomContext(
        "weights", fmt::format("{} layers, {}", spec_.layers, format_bytes(checkpoint_.bytes())));
    benchmark::AddCustomContext("threads", fmt::format("{} compute, {} copy", at::get_num_threads(),
                                                       copy_threads ? std::to_string(*copy_threads) : "any"));
    const char* const waiting = std::getenv("OMP_WAIT_POLICY");
    benchmark::AddCustomContext("OMP_WAIT_POLICY", waiting == nullptr ? "not set" : waiting);
    for (const LlamaWork& work : works_) {
      for (const Case& how : kCases) {
        program.add(fmt::format("{}/{}", work.name(), how.name),
                    [this, &work, &how](benchmark::State& state) { measure(state, work, how); });
      }
      for (const bool cold : {false, true}) {
        program.add(fmt::format("{}/mmap/cache:{}", work.name(), cold ? "cold" : "warm"),
                    [this, &work, cold](benchmark::State& state) { measure_mapped(state, work, cold); });
      }
    }
  }

 private:
  /// The fastest, found when it is first asked for. With `--copy-threads`, the one of the warm readings that
  /// has as many.
  const RawReading& raw_reading(bool cold) {
    std::optional<RawReading>& reading = cold ? direct_ : cached_;
    if (reading) return *reading;
    const std::uint64_t memory_bytes = range_.bytes() / spec_.layers * 3;  // as the slots
    if (!cold && copy_threads_) {
      return reading.emplace(RawReading::Way::kThreads, false, *copy_threads_, 1u << 20, memory_bytes);
    }
    set_cache(cold);
    const auto sweep = cold ? sweep_direct : sweep_cached;
    return reading.emplace(
        best_of_each_way(sweep(checkpoint_.file(), range_, {.memory_bytes = memory_bytes})).front());
  }

  void set_cache(bool cold) const { cold ? make_cold(checkpoint_.file()) : make_warm(checkpoint_.file()); }

  void measure(benchmark::State& state, const LlamaWork& work, const Case& how) {
    const bool reads = how.resident_share < 1 && !how.in_place;
    if (reads) raw_reading(how.cold);  // which may have to be found, with nothing else going on
    set_cache(how.cold);
    StreamedLlama weights(files_, {.budget = budget_of(how, files_)});
    work.time(weights);  // brings what stays
    const std::uint64_t read_bytes = weights.streamer().plan().disk_bytes;
    const auto subject = [&] { return work.time_steady(weights); };
    const Ceiling plain{"plain LibTorch", [&] { return work.time_steady(plain_); }};
    std::string ceiling_name;
    if (read_bytes == 0) {
      ceiling_name = compare(state, range_.bytes(), subject, {&plain, 1});
    } else {
      const std::vector<ByteRange> ranges = ranges_read(checkpoint_, weights.streamer().plan());
      const RawReading& reading = raw_reading(how.cold);
      const auto prepare = [&] { set_cache(how.cold); };
      const TimedRun read = raw_run(checkpoint_.file(), ranges, reading, {.prepare = prepare});
      ceiling_name = compare_with_longer(state, range_.bytes(), subject, {"plain", plain},
                                         {"read", {describe(reading), read}}, [&] {
                                           prepare();
                                           return time_beside_reading(work, reading, ranges);
                                         });
    }
    check_bytes(weights.streamer(), how);
    state.SetLabel(fmt::format("{}, {} read a pass; ceiling {}", describe(weights.streamer().storage_path()),
                               format_bytes(read_bytes), ceiling_name));
  }

  /// Plain LibTorch and the raw reading at the same time, until both have ended: where the processor does
  /// both, neither is as fast as alone.
  double time_beside_reading(const LlamaWork& work, const RawReading& reading,
                             std::span<const ByteRange> ranges) {
    RawReader reader(checkpoint_.file(), reading);
    work.time(plain_);
    return seconds_beside([&] { return work.time(plain_); }, [&] { return reader.read(ranges); });
  }

  /// Equal logits do not prove that anything was streamed.
  void check_bytes(const Streamer& streamer, const Case& how) const {
    const PassStats pass = streamer.stats().last_pass;
    const std::uint64_t brought = pass.bytes.disk + pass.bytes.page_cache;
    const std::uint64_t least = how.in_place ? range_.bytes() / 2 : streamer.plan().disk_bytes;
    if (brought < least || (least == 0 && brought != 0)) {
      throw Error(Errc::kInternal, "the pass brought other bytes than planned",
                  {.expected_bytes = least, .actual_bytes = brought});
    }
    if (how.cold) check_cold(checkpoint_.file());
  }

  void measure_mapped(benchmark::State& state, const LlamaWork& work, bool cold) {
    std::optional<MappedWeights> mapped;
    const auto run = [&] {
      if (cold) mapped.reset();
      if (cold || !mapped) {
        set_cache(cold);
        mapped.emplace(files_, checkpoint_.file());
      }
      return cold ? work.time(**mapped) : work.time_steady(**mapped);
    };
    const std::array ceilings = {Ceiling{"plain LibTorch", [&] { return work.time_steady(plain_); }}};
    state.SetLabel("ceiling " + compare(state, range_.bytes(), run, ceilings));
  }

  SyntheticSpec spec_;
  BenchCheckpoint checkpoint_;
  std::optional<unsigned> copy_threads_;
  LlamaFiles files_;
  ResidentLlama plain_;
  ByteRange range_;
  std::optional<RawReading> cached_;
  std::optional<RawReading> direct_;
  std::vector<LlamaWork> works_;
};

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("What do a token and a prompt of a 1 B Llama cost, by where its weights are?");
  std::string directory = std::filesystem::temp_directory_path().string();
  program.command_line()
      .add_option("--dir", directory, "Where the weights are written for the time")
      ->capture_default_str();
  std::optional<unsigned> copy_threads;
  program.command_line()
      .add_option(
          "--copy-threads", copy_threads,
          "At most so many copy out of the page cache, under tierstream and raw; with OMP_NUM_THREADS, "
          "which says how many compute")
      ->check(CLI::Range(1u, 1024u));
  std::optional<LlamaBench> bench;
  return program.run(argc, argv, [&] { bench.emplace(program, directory, copy_threads); });
}
