// What does the staging loop itself cost, per layer and per block, when storage and device cost nothing? The
// hand-off to the caller and the checks that all storage backends share are included.

#include "staging_loop.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <vector>

#include "bench/bench_program.h"
#include "bench/comparison.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kBlockBytes = 8u << 20;
constexpr std::uint64_t kRequestBytes = 1u << 20;
constexpr std::uint32_t kRingBlocks = 16;  // the fewest for which a plan takes blocks of this size
constexpr std::uint32_t kSlots = 3;
constexpr std::uint32_t kLayers = 32;
/// What the loop may cost.
constexpr double kTargetLayerNs = 10'000;
constexpr double kTargetBlockNs = 1'000;

/// Reads end at once, whole, without moving a byte.
class FreeStorage final : public StorageBackend {
 public:
  /// `at_a_time`: completions that one `collect` brings at most.
  explicit FreeStorage(std::uint64_t file_bytes, std::size_t at_a_time)
      : StorageBackend({}), file_bytes_(file_bytes), at_a_time_(at_a_time) {
    finished_.reserve(limits().max_in_flight);
  }

 private:
  FileInfo do_open(FileId, const std::string&) override {
    return {.bytes = file_bytes_, .offset_alignment = 4096, .memory_alignment = 4096};
  }
  void do_submit(std::span<const RawRead> reads) override {
    for (const RawRead& read : reads) {
      finished_.push_back({read.id, static_cast<std::int64_t>(read.destination.size())});
    }
  }
  std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds) override {
    const std::size_t count = std::min({completions.size(), finished_.size(), at_a_time_});
    for (std::size_t i = 0; i < count; ++i) {
      completions[i] = finished_.back();
      finished_.pop_back();
    }
    return count;
  }
  void do_wake() noexcept override {}
  StoragePath do_path() const override { return {.backend = "free"}; }

  std::uint64_t file_bytes_;
  std::size_t at_a_time_;
  std::vector<RawCompletion> finished_;
};

/// Copies are dropped, and done at once. Its memory is addresses only.
class FreeDevice final : public Device {
 public:
  const DeviceTraits& traits() const override { return traits_; }
  DeviceMemory allocate(std::size_t bytes) override {
    void* const memory =
        ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error(Errc::kOutOfMemory, "no addresses left");
    return {*this, static_cast<std::byte*>(memory), bytes};
  }
  MemoryRoom memory_room() override { return {std::uint64_t{1} << 62, "nothing"}; }
  HostRegistration register_host(std::span<std::byte> memory, std::string&, HostAccess) override {
    return {*this, memory};
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<FreeEvent>(); }
  std::unique_ptr<Event> make_timed_event() override { return make_event(); }
  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()>) override {
    return std::make_unique<FreeCopyQueue>();
  }
  void download(std::span<std::byte>, const std::byte*, Stream) override {}
  void fill(std::span<std::byte>, std::byte, Stream) override {}

 private:
  class FreeEvent final : public Event {
   public:
    bool done() const override { return true; }
    void record(Stream) override {}
    void make_wait(Stream) const override {}
    std::chrono::nanoseconds elapsed_since(const Event&) const override { return {}; }
  };
  class FreeCopyQueue final : public CopyQueue {
   public:
    void copy(std::byte*, const std::byte*, std::size_t) override {}
    void record(Event&) override {}
    bool notifies() const override { return true; }
  };

  void free_memory(std::byte* data, std::size_t bytes) noexcept override { ::munmap(data, bytes); }
  void unregister_host(std::span<std::byte>) noexcept override {}

  DeviceTraits traits_{.name = "free", .memory_alignment = 4096};
};

/// Equal layers of one tensor each, one behind the other in one file.
LayerTable make_table(std::uint32_t blocks_per_layer) {
  const std::uint64_t layer_bytes = blocks_per_layer * kBlockBytes;
  LayerTable table;
  table.files.push_back(
      {"free", {.bytes = kLayers * layer_bytes, .offset_alignment = 4096, .memory_alignment = 4096}});
  for (std::uint32_t i = 0; i < kLayers; ++i) {
    table.layers.push_back({.name = fmt::format("layers.{}", i),
                            .tensors = {{.name = "weight",
                                         .dtype = DType::kU8,
                                         .shape = {static_cast<std::int64_t>(layer_bytes)},
                                         .bytes = layer_bytes,
                                         .source = FileExtent{0, i * layer_bytes}}}});
  }
  return table;
}

struct Case {
  const char* name;
  bool lands;
  std::size_t completions_at_a_time;
  bool traced = false;
};
/// A disk slower than the loop brings completions one by one: a round of the loop for each request.
constexpr std::array kCases = {
    Case{"ring/completions:1", false, 1},
    Case{"ring/completions:64", false, 64},
    Case{"landing/completions:1", true, 1},
    Case{"landing/completions:64", true, 64},
    Case{"ring/completions:1/traced", false, 1, true},
};

/// A loop over free storage and a free device, and a caller who takes each layer and gives it back at once,
/// on one thread.
class FreeStaging {
 public:
  FreeStaging(std::uint32_t blocks_per_layer, const Case& how)
      : table_(make_table(blocks_per_layer)),
        plan_(make_plan(
            table_, {.gpu = kSlots * blocks_per_layer * kBlockBytes, .pinned = kRingBlocks * kBlockBytes}, {},
            {.reads_land = how.lands,
             .max_slots = kSlots,
             .request_bytes = kRequestBytes,
             .layer_seconds = {}})),
        storage_(table_.files.front().info.bytes, how.completions_at_a_time),
        trace_(how.traced ? &recorded_ : nullptr, clock_) {
    if (!how.lands && plan_.ring.block_bytes != kBlockBytes) {
      throw Error(Errc::kInternal, "the plan's blocks are not those that this bench counts");
    }
    storage_.open(table_.files.front().path);
    std::iota(order_.begin(), order_.end(), 0u);
  }

  void walk() {
    hand_off_.begin_pass(order_, true);
    for (const std::uint32_t layer : order_) {
      std::optional<HandOff::Grant> grant;
      while (!(grant = hand_off_.try_acquire(layer))) loop_.step();
      hand_off_.release(grant->place, std::array{Stream{}});
    }
    hand_off_.end_pass();
  }

 private:
  LayerTable table_;
  Plan plan_;
  FreeDevice device_;
  FreeStorage storage_;
  TierBudget gpu_{"gpu", plan_.used.gpu};
  TierBudget pinned_{"pinned", plan_.used.pinned};
  PinnedRing ring_{device_, pinned_, plan_.ring};
  SlotArena slots_{device_, gpu_, plan_.slot_bytes, plan_.slots};
  Residents residents_{table_, plan_, device_, gpu_};
  std::unique_ptr<CopyQueue> copies_ = device_.make_copy_queue({});
  SteadyClock clock_;
  Trace recorded_;
  TraceRecorder trace_;
  SlotRule rule_{.slots = plan_.slots, .stable = false};
  HandOff hand_off_{std::vector<std::uint8_t>(kLayers, 1), rule_, slots_, clock_, [] {}, trace_};
  StagingLoop loop_{{.table = table_,
                     .plan = plan_,
                     .storage = storage_,
                     .device = device_,
                     .copies = *copies_,
                     .ring = ring_,
                     .slots = slots_,
                     .outside_memory = nullptr,
                     .outside_is_there = false,
                     .residents = residents_,
                     .page_cache = nullptr,
                     .hand_off = hand_off_,
                     .rule = rule_,
                     .trace = trace_}};
  std::vector<std::uint32_t> order_ = std::vector<std::uint32_t>(kLayers);
};

/// Nanoseconds per layer of steady passes.
double ns_per_layer(FreeStaging& staging) {
  constexpr int kPasses = 50;
  const double seconds = seconds_of([&] {
    for (int i = 0; i < kPasses; ++i) staging.walk();
  });
  return seconds * 1e9 / (kPasses * kLayers);
}

/// Layers of one block and of many, in turn, give the two parts: so much a layer, and so much a block.
void measure(benchmark::State& state, const Case& how) {
  constexpr std::uint32_t kFew = 1;
  constexpr std::uint32_t kMany = 32;
  FreeStaging small(kFew, how);
  FreeStaging large(kMany, how);
  small.walk();
  large.walk();
  std::vector<double> layer_ns;
  std::vector<double> block_ns;
  std::vector<double> ratios;
  for ([[maybe_unused]] auto iteration : state) {
    const double small_ns = ns_per_layer(small);
    const double large_ns = ns_per_layer(large);
    block_ns.push_back((large_ns - small_ns) / (kMany - kFew));
    layer_ns.push_back(small_ns - kFew * block_ns.back());
    ratios.push_back((kTargetLayerNs + kMany * kTargetBlockNs) / large_ns);
    state.SetIterationTime(large_ns * 1e-9);
  }
  state.counters["layer_ns"] = quantile(layer_ns, 0.5);
  state.counters["block_ns"] = quantile(block_ns, 0.5);
  state.counters["ceiling_layer_ns"] = kTargetLayerNs;
  state.counters["ceiling_block_ns"] = kTargetBlockNs;
  report(state, "ratio", ratios);
  state.SetLabel(fmt::format("free storage and device, {} blocks of {} a layer, {} slots", kMany,
                             format_bytes(kBlockBytes), kSlots));
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("What does the staging loop itself cost, when storage and device cost nothing?");
  return program.run(argc, argv, [&] {
    for (const Case& how : kCases) {
      program.add(fmt::format("staging_loop/{}", how.name),
                  [&how](benchmark::State& state) { measure(state, how); });
    }
  });
}
