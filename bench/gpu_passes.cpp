// How close does a pass to a GPU come to the link, by where the weights lie: page cache, RAM, GPU, a fast
// storage behind the ring? Beside what people do today: pin and copy tensor by tensor, and the whole model
// pinned with two buffers on the GPU.

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cuda/cuda_device.h>

#include <array>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bench/bench_checkpoint.h"
#include "bench/comparison.h"
#include "bench/gpu_link.h"
#include "tools/page_cache.h"
#include "tools/timing.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint32_t kLayers = 24;
constexpr std::uint32_t kSlots = 3;
constexpr std::uint64_t kRingBytes = 256 * kMiB;

/// CPU seconds so far, of the calling thread and of all others.
struct CpuSeconds {
  double caller;
  double others;
};
CpuSeconds cpu_seconds() {
  const auto seconds = [](clockid_t clock) {
    timespec time{};
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  };
  const double caller = seconds(CLOCK_THREAD_CPUTIME_ID);
  return {caller, seconds(CLOCK_PROCESS_CPUTIME_ID) - caller};
}

/// What the least that a caller can do costs it a layer, in microseconds of its thread: to sleep until it is
/// told that the layer is on its way, to make its stream wait for that, and to mark the end of its use.
double bare_caller_us(Device& device, GpuLink& link, std::uint64_t layer_bytes) {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint32_t on_their_way = 0;
  const auto tell_of = [&](std::uint32_t layers) {
    const std::scoped_lock lock(mutex);
    on_their_way = layers;
    changed.notify_one();
  };
  auto teller = std::async(std::launch::async, [&] {
    try {
      for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
        link.seconds_for(layer_bytes);
        tell_of(layer + 1);
      }
    } catch (...) {
      tell_of(kLayers);
      throw;
    }
  });
  const OwnStream stream;
  const std::unique_ptr<Event> copied = device.make_event();
  const std::unique_ptr<Event> used = device.make_event();
  copied->record({stream.get()});
  const double before = cpu_seconds().caller;
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return on_their_way > layer; });
    }
    copied->make_wait({stream.get()});
    used->record({stream.get()});
  }
  const double seconds = cpu_seconds().caller - before;
  teller.get();
  return seconds * 1e6 / kLayers;
}

/// What all measurements share.
struct World {
  const BenchCheckpoint& checkpoint;
  std::shared_ptr<Device> device;
  GpuLink& link;

  LayerTable table(CacheUse cache = CacheUse::kAuto) const { return checkpoint.layers({.cache = cache}); }
  Plan plan_for(const LayerTable& layers, const Budget& budget) const {
    return make_plan(layers, budget, {}, {.max_slots = kSlots, .layer_seconds = {}});
  }
  /// The slots and what is outside, no resident.
  std::uint64_t slot_bytes(const LayerTable& layers) const {
    const Plan plan = plan_for(layers, {.gpu = std::uint64_t{1} << 62, .pinned = kRingBytes});
    return plan.outside.slot_bytes + kSlots * plan.largest_slot_bytes;
  }
  Streamer stream(const LayerTable& layers, const Budget& budget) const {
    return {layers, {.device = device, .budget = budget, .max_slots = kSlots}};
  }
};

std::uint64_t bytes_of(const LayerTable& table) {
  std::uint64_t bytes = 0;
  for (const Layer& layer : table.layers) bytes += layer.bytes();
  return bytes;
}

/// Ends with nothing staged beyond it, and with all work on the GPU done.
void walk(Streamer& streamer) {
  for (const Lease& layer : streamer.pass({.last = true})) benchmark::DoNotOptimize(layer.slot());
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

/// Waits until every kept page is there and registered.
void settle(Streamer& streamer) {
  while (streamer.page_cache_status().registered_bytes < streamer.plan().used.page_cache) {
    if (!streamer.page_cache_status().registration_refusal.empty()) return;
    std::this_thread::yield();
  }
}

void describe_path(benchmark::State& state, Streamer& streamer, const std::string& ceiling) {
  const Plan& plan = streamer.plan();
  state.SetLabel(fmt::format(
      "{}; gpu {}, pinned {}, page_cache {}; ceiling {} {}{}", describe(streamer.storage_path()),
      format_bytes(plan.used.gpu), format_bytes(plan.used.pinned), format_bytes(plan.used.page_cache),
      ceiling, streamer.page_cache_status().registration_refusal, streamer.ram_weights_status().refusal));
}

/// Steady passes beside the link, and what they cost the host.
void measure_steady(benchmark::State& state, const World& world, Streamer& streamer) {
  for (int pass = 0; pass < 2; ++pass) walk(streamer);
  settle(streamer);
  walk(streamer);
  std::vector<double> caller_us;
  std::vector<double> staging_share;
  const auto run = [&] {
    const CpuSeconds before = cpu_seconds();
    const double seconds = seconds_of([&] {
      for (const Lease& layer : streamer.pass({.last = true})) benchmark::DoNotOptimize(layer.slot());
      const CpuSeconds after = cpu_seconds();
      caller_us.push_back((after.caller - before.caller) * 1e6 / kLayers);
      check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    });
    staging_share.push_back((cpu_seconds().others - before.others) / seconds);
    return seconds;
  };
  const std::uint64_t bytes = bytes_of(streamer.table()) - streamer.stats().last_pass.bytes.gpu;
  const std::string ceiling = compare(state, bytes, run, std::array{world.link.ceiling(bytes)});
  report(state, "caller_us_a_layer", caller_us);
  std::vector<double> bare_us;
  for (std::size_t round = 0; round < caller_us.size(); ++round) {
    bare_us.push_back(bare_caller_us(*world.device, world.link, bytes / kLayers));
  }
  report(state, "bare_caller_us_a_layer", bare_us);
  report(state, "other_threads_cores", staging_share);
  describe_path(state, streamer, ceiling);
}

void measure_page_cache(benchmark::State& state, const World& world) {
  make_warm(world.checkpoint.file());
  const LayerTable table = world.table();
  Streamer streamer = world.stream(table, {.gpu = world.slot_bytes(table),
                                           .pinned = 16 * kMiB,
                                           .page_cache = bytes_of(table) + kLayers * 4 * kMiB});
  measure_steady(state, world, streamer);
}

/// From opening the checkpoint to the first layer on the device, and to everything registered.
void measure_set_up(benchmark::State& state, const World& world) {
  make_warm(world.checkpoint.file());
  std::vector<double> all;
  for ([[maybe_unused]] auto iteration : state) {
    std::optional<Streamer> streamer;
    double first = 0;
    const double registered = seconds_of([&] {
      first = seconds_of([&] {
        const LayerTable table = world.table();
        streamer.emplace(world.stream(table, {.gpu = world.slot_bytes(table),
                                              .pinned = 16 * kMiB,
                                              .page_cache = bytes_of(table) + kLayers * 4 * kMiB}));
        streamer->acquire(0);
        check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
      });
      settle(*streamer);
    });
    all.push_back(registered);
    state.SetIterationTime(first);
  }
  report(state, "all_registered_s", all);
  state.SetLabel("time: from open to the first layer; CUDA's context was there");
}

/// Half of the layers' bytes on the GPU, the rest in the page cache, beside a pass that streams all of it.
void measure_half_resident(benchmark::State& state, const World& world) {
  make_warm(world.checkpoint.file());
  const LayerTable table = world.table();
  const Budget all{.gpu = world.slot_bytes(table),
                   .pinned = 16 * kMiB,
                   .page_cache = bytes_of(table) + kLayers * 4 * kMiB};
  Streamer streamed = world.stream(table, all);
  Streamer half = world.stream(
      table, {.gpu = all.gpu + bytes_of(table) / 2, .pinned = all.pinned, .page_cache = all.page_cache});
  for (Streamer* streamer : {&streamed, &half}) {
    walk(*streamer);
    settle(*streamer);
    walk(*streamer);
  }
  std::vector<double> of_all;
  for ([[maybe_unused]] auto iteration : state) {
    const double before = seconds_of([&] { walk(half); });
    const double whole = seconds_of([&] { walk(streamed); });
    const double after = seconds_of([&] { walk(half); });
    of_all.push_back((before + after) / 2 / whole);
    state.SetIterationTime((before + after) / 2);
  }
  report(state, "of_all_streamed", of_all);
  describe_path(state, half, "a pass that streams all");
}

/// Weights in memory that nobody prepared: one malloc a tensor.
class RamModel {
 public:
  explicit RamModel(LayerTable table) : table_(std::move(table)) {
    for (Layer& layer : table_.layers) {
      for (TensorSpec& tensor : layer.tensors) {
        std::unique_ptr<std::byte[]>& memory =
            memory_.emplace_back(std::make_unique_for_overwrite<std::byte[]>(tensor.bytes));
        HostMemory::populate({memory.get(), tensor.bytes});
        std::memset(memory.get(), 1, tensor.bytes);
        tensor.source = memory.get();
      }
    }
  }
  const LayerTable& table() const { return table_; }

 private:
  std::vector<std::unique_ptr<std::byte[]>> memory_;
  LayerTable table_;
};

void measure_ram(benchmark::State& state, const World& world) {
  const RamModel model(world.table());
  Streamer streamer = world.stream(model.table(), {.gpu = world.slot_bytes(model.table()),
                                                   .pinned = bytes_of(model.table()) + 256 * kMiB});
  measure_steady(state, world, streamer);
}

/// Through the ring, from the page cache by storage's own reads: the source's own rate is a ceiling, too.
void measure_ring(benchmark::State& state, const World& world, const RawReading& cached) {
  const std::string& file = world.checkpoint.file();
  make_warm(file);
  const LayerTable table = world.table(CacheUse::kBuffered);
  Streamer streamer = world.stream(table, {.gpu = world.slot_bytes(table), .pinned = kRingBytes});
  for (int pass = 0; pass < 2; ++pass) walk(streamer);
  const std::uint64_t bytes = bytes_of(table);
  const Part source{"source", {describe(cached), raw_run(file, {range_of(table)}, cached)}};
  const Part link{"link", world.link.ceiling(bytes)};
  const std::string ceiling = compare_with_longer(
      state, bytes, [&] { return seconds_of([&] { walk(streamer); }); }, source, link,
      [&] { return seconds_beside(source.alone.run, link.alone.run); });
  describe_path(state, streamer, ceiling);
}

/// From a cold disk, all of it or half of it: the other half is kept in the page cache.
void measure_disk(benchmark::State& state, const World& world, double kept, const RawReading& reading) {
  make_cold(world.checkpoint.file());
  const LayerTable table = world.table(CacheUse::kDirect);
  const auto kept_bytes = static_cast<std::uint64_t>(kept * static_cast<double>(bytes_of(table)));
  Streamer streamer =
      world.stream(table, {.gpu = world.slot_bytes(table), .pinned = kRingBytes, .page_cache = kept_bytes});
  walk(streamer);
  settle(streamer);
  Streamer all = world.stream(table, {.gpu = world.slot_bytes(table), .pinned = kRingBytes});
  std::vector<double> of_all;
  const TimedRun raw =
      raw_run(world.checkpoint.file(), ranges_read(world.checkpoint, streamer.plan()), reading);
  std::string ceiling;
  if (kept == 0) {
    ceiling = compare(
        state, streamer.plan().disk_bytes, [&] { return seconds_of([&] { walk(streamer); }); },
        std::array{Ceiling{describe(reading), raw}});
  } else {
    for ([[maybe_unused]] auto iteration : state) {
      const double seconds = seconds_of([&] { walk(streamer); });
      of_all.push_back(seconds / seconds_of([&] { walk(all); }));
      state.SetIterationTime(seconds);
    }
    report(state, "of_all_streamed", of_all);
    ceiling = "a pass that streams all";
  }
  describe_path(state, streamer, ceiling);
}

/// The fastest raw readings of a quarter of the file, found when they are first asked for: that takes a
/// minute.
class RawReadings {
 public:
  explicit RawReadings(const World& world)
      : file_(world.checkpoint.file()), quarter_(range_of(world.table())) {
    quarter_.end = quarter_.begin + quarter_.bytes() / 4 / 4096 * 4096;
  }

  const RawReading& cached() {
    if (!cached_) {
      make_warm(file_);
      cached_ = sweep_cached(file_, quarter_, {.memory_bytes = kRingBytes}).timings.front().reading;
    }
    return *cached_;
  }
  const RawReading& direct() {
    if (!direct_) {
      make_cold(file_);
      direct_ =
          sweep_direct(file_, quarter_, {.memory_bytes = kRingBytes, .rounds = 2}).timings.front().reading;
    }
    return *direct_;
  }

 private:
  const std::string& file_;
  ByteRange quarter_;
  std::optional<RawReading> cached_;
  std::optional<RawReading> direct_;
};

// --- What people do today ---

/// Tensor by tensor: copied to a pinned buffer by the calling thread, from there to the GPU. Two layers
/// ahead.
void measure_pin_and_copy(benchmark::State& state, const World& world) {
  const RamModel model(world.table());
  constexpr std::size_t kAhead = 2;
  std::uint64_t largest = 0;
  for (const Layer& layer : model.table().layers) largest = std::max(largest, layer.bytes());
  std::deque<PinnedMemory> pinned;  // one a layer on its way: a tensor's buffer is kept, as an allocator does
  for (std::size_t i = 0; i <= kAhead; ++i) pinned.emplace_back(*world.device, largest);
  const DeviceMemory slots = world.device->allocate((kAhead + 1) * largest);
  std::array<cudaEvent_t, kAhead + 1> copied{};
  for (cudaEvent_t& event : copied) check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  const OwnStream stream;
  const auto run = [&] {
    return seconds_of([&] {
      for (std::uint32_t i = 0; i < kLayers; ++i) {
        const std::size_t place = i % (kAhead + 1);
        check_cuda(cudaEventSynchronize(copied[place]), "cudaEventSynchronize");
        std::uint64_t offset = 0;
        for (const TensorSpec& tensor : model.table().layers[i].tensors) {
          std::byte* const buffer = pinned[place].data() + offset;
          std::memcpy(buffer, std::get<const std::byte*>(tensor.source), tensor.bytes);
          stream.copy(slots.data() + place * largest + offset, buffer, tensor.bytes);
          offset += tensor.bytes;
        }
        check_cuda(cudaEventRecord(copied[place], stream.get()), "cudaEventRecord");
      }
      stream.wait();
    });
  };
  const std::uint64_t bytes = bytes_of(model.table());
  state.SetLabel("ceiling " + compare(state, bytes, run, std::array{world.link.ceiling(bytes)}));
  for (cudaEvent_t event : copied) cudaEventDestroy(event);
}

/// Everything pinned beforehand, one copy a layer into two buffers in turn.
void measure_double_buffer(benchmark::State& state, const World& world) {
  const LayerTable table = world.table();
  std::uint64_t largest = 0;
  for (const Layer& layer : table.layers) largest = std::max(largest, layer.bytes());
  std::optional<PinnedMemory> pinned;
  const double set_up = seconds_of([&] { pinned.emplace(*world.device, bytes_of(table)); });
  const DeviceMemory buffers = world.device->allocate(2 * largest);
  const OwnStream stream;
  const auto run = [&] {
    return seconds_of([&] {
      std::uint64_t offset = 0;
      for (std::uint32_t i = 0; i < kLayers; ++i) {
        stream.copy(buffers.data() + i % 2 * largest, pinned->data() + offset, table.layers[i].bytes());
        offset += table.layers[i].bytes();
      }
      stream.wait();
    });
  };
  const std::uint64_t bytes = bytes_of(table);
  const std::string ceiling = compare(state, bytes, run, std::array{world.link.ceiling(bytes)});
  state.counters["set_up_s"] = set_up;
  state.SetLabel(fmt::format("{} pinned, without reading them; ceiling {}", format_bytes(bytes), ceiling));
}

void add_benchmarks(BenchProgram& program, const World& world, RawReadings& raw) {
  const auto add = [&](const std::string& name, auto measure) {
    program.add("gpu_pass/" + name, [&world, measure](benchmark::State& state) { measure(state, world); });
  };
  add("page_cache/all", measure_page_cache);
  add("page_cache/set_up", measure_set_up);
  add("page_cache/half_resident", measure_half_resident);
  add("ram/registered", measure_ram);
  add("today/pin_and_copy", measure_pin_and_copy);
  add("today/double_buffer", measure_double_buffer);
  add("ring/buffered",
      [&raw](benchmark::State& state, const World& w) { measure_ring(state, w, raw.cached()); });
  for (const double kept : {0.0, 0.5}) {
    add(fmt::format("disk/kept:{}", kept), [&raw, kept](benchmark::State& state, const World& w) {
      measure_disk(state, w, kept, raw.direct());
    });
  }
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("How close does a pass to a GPU come to the link, by where the weights lie?");
  const FileOptions options(program, kLayers * 416 * kMiB);
  std::optional<BenchCheckpoint> checkpoint;
  std::optional<GpuLink> link;
  std::optional<World> world;
  std::optional<RawReadings> raw;
  return program.run(argc, argv, [&] {
    const std::shared_ptr<Device> device = make_cuda_device(0);
    checkpoint.emplace(options, kLayers);
    link.emplace(*device);
    world.emplace(World{*checkpoint, device, *link});
    add_benchmarks(program, *world, raw.emplace(*world));
  });
}
