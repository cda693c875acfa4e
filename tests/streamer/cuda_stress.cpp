// The four orderings on a real GPU, for as long as one likes: copies and compute are delayed at random by
// spinning kernels, slots are poisoned before bytes arrive, layers are skipped, repeated and held, budgets
// change, and every tensor is checked on the device at the moment of use.

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cuda/cuda_device.h>

#include <CLI/CLI.hpp>
#include <array>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/byte_units.h"
#include "support/cuda_kernels.h"
#include "support/test_files.h"

namespace tierstream {
namespace {

constexpr int kSkipped = 77;
constexpr std::uint32_t kLayers = 12;
constexpr std::uint32_t kTensors = 4;
constexpr std::size_t kChecksInFlight = 256;

using Random = std::mt19937_64;

std::uint64_t between(Random& random, std::uint64_t least, std::uint64_t most) {
  return std::uniform_int_distribution<std::uint64_t>(least, most)(random);
}

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

class OwnStream {
 public:
  OwnStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Copies late, and into memory that was poisoned right before.
class LateQueue final : public CopyQueue {
 public:
  explicit LateQueue(std::uint64_t seed) : random_(seed) {}

  void copy(std::byte* destination, const std::byte* source, std::size_t bytes) override {
    if (between(random_, 0, 3) == 0) {
      spin(stream_.get(), static_cast<std::uint32_t>(between(random_, 1, 400)));
    }
    check(cudaMemsetAsync(destination, 0xFF, bytes, stream_.get()));
    check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyHostToDevice, stream_.get()));
  }
  void record(Event& event) override { event.record({stream_.get()}); }
  bool notifies() const override { return false; }

 private:
  Random random_;
  OwnStream stream_;
};

/// A CUDA device but for its copy queue. What it allocates belongs to the device within.
class LateDevice final : public Device {
 public:
  LateDevice(std::shared_ptr<Device> device, std::uint64_t seed) : device_(std::move(device)), seed_(seed) {}

  const DeviceTraits& traits() const override { return device_->traits(); }
  DeviceMemory allocate(std::size_t bytes) override { return device_->allocate(bytes); }
  MemoryRoom memory_room() override { return device_->memory_room(); }
  HostRegistration register_host(std::span<std::byte> memory, std::string& refusal,
                                 HostAccess access) override {
    return device_->register_host(memory, refusal, access);
  }
  std::unique_ptr<Event> make_event() override { return device_->make_event(); }
  std::unique_ptr<Event> make_timed_event() override { return device_->make_timed_event(); }
  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()>) override {
    return std::make_unique<LateQueue>(seed_++);
  }
  void download(std::span<std::byte> destination, const std::byte* source, Stream stream) override {
    device_->download(destination, source, stream);
  }
  void fill(std::span<std::byte> memory, std::byte value, Stream stream) override {
    device_->fill(memory, value, stream);
  }
  void enter_staging_thread() override { device_->enter_staging_thread(); }

 private:
  void free_memory(std::byte*, std::size_t) noexcept override {}
  void unregister_host(std::span<std::byte>) noexcept override {}

  std::shared_ptr<Device> device_;
  std::uint64_t seed_;
};

/// Unequal layers in one file, and the checksum of each of their tensors.
struct Model {
  LayerTable table;
  std::vector<std::array<std::uint64_t, kTensors>> sums;
  std::uint64_t bytes = 0;

  Model(const TemporaryDirectory& directory, std::uint64_t seed) {
    Random random(seed);
    std::vector<std::byte> content;
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      Layer& made = table.layers.emplace_back(Layer{fmt::format("layers.{}", layer), {}});
      for (std::uint32_t tensor = 0; tensor < kTensors; ++tensor) {
        const std::uint64_t tensor_bytes = between(random, 1, 3 * kMiB / 8) * 8;
        const std::uint64_t offset = content.size();
        made.tensors.push_back({fmt::format("t{}", tensor),
                                DType::kU8,
                                {static_cast<std::int64_t>(tensor_bytes)},
                                tensor_bytes,
                                FileExtent{0, offset}});
        for (std::uint64_t word = 0; word < tensor_bytes / 8; ++word) {
          const std::uint64_t value = random();
          const auto* const begin = reinterpret_cast<const std::byte*>(&value);
          content.insert(content.end(), begin, begin + 8);
        }
      }
    }
    sums.resize(kLayers);
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      for (std::uint32_t tensor = 0; tensor < kTensors; ++tensor) {
        const TensorSpec& spec = table.layers[layer].tensors[tensor];
        const std::uint64_t offset = std::get<FileExtent>(spec.source).offset;
        sums[layer][tensor] = checksum(std::span(content).subspan(offset, spec.bytes));
      }
    }
    bytes = content.size();
    const std::string path = directory.write("model", content);
    table.open_storage = [] { return make_file_backend(); };
    const std::unique_ptr<StorageBackend> storage = table.open_storage();
    table.files.push_back({path, storage->info(storage->open(path))});
  }
};

/// Checksums that are being computed, and what they must come to.
class Checks {
 public:
  Checks() {
    check(cudaMalloc(reinterpret_cast<void**>(&device_sums_), kChecksInFlight * kCheckBytes));
    check(cudaMallocHost(reinterpret_cast<void**>(&sums_), kChecksInFlight * kCheckBytes));
    for (std::size_t i = 0; i < kChecksInFlight; ++i) free_.push_back(i);
  }
  Checks(const Checks&) = delete;
  Checks& operator=(const Checks&) = delete;
  ~Checks() {
    cudaFree(device_sums_);
    cudaFreeHost(sums_);
  }

  /// Queues the sums of all tensors of `lease` on `stream`.
  void add(const Lease& lease, const Model& model, cudaStream_t stream) {
    while (free_.empty()) look();
    const std::size_t index = free_.front();
    free_.pop_front();
    Pending pending{.layer = static_cast<std::uint32_t>(lease.index()), .index = index, .done = nullptr};
    check(cudaEventCreateWithFlags(&pending.done, cudaEventDisableTiming));
    std::uint64_t* const sums = device_sums_ + index * kTensors;
    check(cudaMemsetAsync(sums, 0, kCheckBytes, stream));
    for (std::uint32_t tensor = 0; tensor < kTensors; ++tensor) {
      const TensorView view = lease.tensor(tensor);
      add_checksum(stream, view.data, view.spec->bytes, sums + tensor);
    }
    check(cudaMemcpyAsync(sums_ + index * kTensors, sums, kCheckBytes, cudaMemcpyDeviceToHost, stream));
    check(cudaEventRecord(pending.done, stream));
    pending_.push_back(pending);
    model_ = &model;
  }
  void finish() {
    check(cudaDeviceSynchronize());
    while (!pending_.empty()) look();
  }
  std::uint64_t tensors() const { return tensors_; }

 private:
  struct Pending {
    std::uint32_t layer;
    std::size_t index;
    cudaEvent_t done;
  };

  /// Waits for the oldest, and compares it.
  void look() {
    const Pending oldest = pending_.front();
    pending_.pop_front();
    check(cudaEventSynchronize(oldest.done));
    cudaEventDestroy(oldest.done);
    for (std::uint32_t tensor = 0; tensor < kTensors; ++tensor) {
      ++tensors_;
      if (sums_[oldest.index * kTensors + tensor] == model_->sums[oldest.layer][tensor]) continue;
      throw std::runtime_error(
          fmt::format("layer {}, tensor {}: wrong bytes at the moment of use", oldest.layer, tensor));
    }
    free_.push_back(oldest.index);
  }

  static constexpr std::size_t kCheckBytes = kTensors * sizeof(std::uint64_t);
  std::uint64_t* device_sums_ = nullptr;
  std::uint64_t* sums_ = nullptr;
  const Model* model_ = nullptr;
  std::deque<std::size_t> free_;
  std::deque<Pending> pending_;
  std::uint64_t tensors_ = 0;
};

struct Outcome {
  std::uint64_t leases = 0;
  std::uint64_t tensors = 0;
  std::uint64_t passes = 0;
  std::uint64_t budget_changes = 0;
};

/// One user of the GPU with a streamer of its own.
class User {
 public:
  User(const std::shared_ptr<Device>& device, const Model& model, std::uint64_t seed)
      : model_(model),
        random_(seed),
        streamer_(model.table,
                  {.device = std::make_shared<LateDevice>(device, seed), .budget = some_budget()}) {}

  Outcome run(std::chrono::steady_clock::time_point end) {
    while (std::chrono::steady_clock::now() < end) {
      const std::uint64_t what = between(random_, 0, 9);
      if (what == 0) {
        change_budget();
      } else if (what < 4) {
        jump_about();
      } else {
        walk();
      }
    }
    held_.reset();
    checks_.finish();
    outcome_.tensors = checks_.tensors();
    outcome_.passes = streamer_.stats().passes;
    streamer_.close();
    return outcome_;
  }

 private:
  Budget some_budget() {
    const Plan plan = make_plan(model_.table, {.gpu = std::uint64_t{1} << 40, .pinned = 64 * kMiB}, {});
    return {.gpu = plan.minimum.gpu + between(random_, 1, 4) * plan.largest_slot_bytes +
                   (between(random_, 0, 1) == 0 ? 0 : between(random_, 0, model_.bytes)),
            .pinned = between(random_, 4, 32) * kMiB,
            .page_cache = between(random_, 0, 1) == 0 ? 0 : between(random_, 0, model_.bytes + kMiB)};
  }

  cudaStream_t some_stream() { return streams_[between(random_, 0, streams_.size() - 1)].get(); }

  /// Computes with a layer, late.
  void use(Lease lease, cudaStream_t stream) {
    ++outcome_.leases;
    if (between(random_, 0, 2) == 0) spin(stream, static_cast<std::uint32_t>(between(random_, 1, 800)));
    checks_.add(lease, model_, stream);
    if (between(random_, 0, 15) == 0) held_ = std::move(lease);
  }

  void walk() {
    cudaStream_t stream = some_stream();
    std::vector<std::uint32_t> schedule;
    if (between(random_, 0, 2) == 0) {
      for (std::uint64_t i = between(random_, 1, 2 * kLayers); i > 0; --i) {
        schedule.push_back(static_cast<std::uint32_t>(between(random_, 0, kLayers - 1)));
      }
    }
    const std::uint64_t leave_at = between(random_, 0, 4) == 0 ? between(random_, 1, kLayers) : kLayers * 3;
    std::uint64_t position = 0;
    held_.reset();
    for (Lease lease :
         streamer_.pass({.schedule = schedule, .last = between(random_, 0, 3) == 0, .stream = {stream}})) {
      held_.reset();
      use(std::move(lease), stream);
      if (++position == leave_at) break;
    }
  }

  void jump_about() {
    for (std::uint64_t i = between(random_, 1, 6); i > 0; --i) {
      held_.reset();
      cudaStream_t stream = some_stream();
      use(streamer_.acquire(between(random_, 0, kLayers - 1), {.stream = {stream}}), stream);
    }
  }

  void change_budget() {
    if (between(random_, 0, 3) == 0) {
      held_.reset();
      (void)streamer_.park();
      streamer_.resume();
    }
    (void)streamer_.set_budget(some_budget());
    ++outcome_.budget_changes;
    held_.reset();  // what it left free is for the next
  }

  const Model& model_;
  Random random_;
  std::array<OwnStream, 3> streams_;
  Checks checks_;
  Outcome outcome_;
  Streamer streamer_;
  std::optional<Lease> held_;
};

Outcome run(std::uint64_t seed, std::uint32_t users, std::chrono::seconds duration) {
  const TemporaryDirectory directory;
  const Model model(directory, seed);
  const std::shared_ptr<Device> device = make_cuda_device(0);
  const auto end = std::chrono::steady_clock::now() + duration;
  Outcome sum;
  std::mutex mutex;
  std::exception_ptr failure;
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t user = 0; user < users; ++user) {
      threads.emplace_back([&, user] {
        try {
          const Outcome outcome = User(device, model, seed * users + user).run(end);
          const std::lock_guard lock(mutex);
          sum.leases += outcome.leases;
          sum.tensors += outcome.tensors;
          sum.passes += outcome.passes;
          sum.budget_changes += outcome.budget_changes;
        } catch (...) {
          const std::lock_guard lock(mutex);
          failure = std::current_exception();
        }
      });
    }
  }
  if (failure) std::rethrow_exception(failure);
  return sum;
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  std::uint64_t seed = 1;
  std::uint32_t seconds = 60;
  std::uint32_t users = 2;
  CLI::App app("Streams to a GPU with delays at random and checks every tensor there at the moment of use");
  app.add_option("--seed", seed, "of all choices; the GPU's timing is its own")->capture_default_str();
  app.add_option("--seconds", seconds, "how long")->capture_default_str();
  app.add_option("--users", users, "streamers, each with a thread of its own")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (cuda_device_count() == 0) {
    fmt::print("no CUDA device\n");
    return kSkipped;
  }
  try {
    const Outcome sum = run(seed, users, std::chrono::seconds(seconds));
    fmt::print(
        "seed {}, {} s, {} users: {} passes, {} leases, {} tensors checked, {} changes of the budget\n", seed,
        seconds, users, sum.passes, sum.leases, sum.tensors, sum.budget_changes);
  } catch (const std::exception& error) {
    fmt::print(stderr, "seed {}: {}\n", seed, error.what());
    return 1;
  }
  return 0;
}
