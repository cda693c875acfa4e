// How fast do blocks of the pinned ring get to a slot, by their size, beside what the hardware does with no
// queue or event between: memcpy in pieces of the same size on the CPU, one large copy on a GPU?

#include <fmt/format.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/pinned_ring.h>
#include <tierstream/tiers/slot_arena.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "bench/bench_program.h"
#include "bench/comparison.h"
#include "tools/device_choice.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint64_t kRingBytes = 64 * kMiB;  // also of the slot
constexpr std::uint64_t kBlockMiB[] = {1, 2, 4, 8, 16};
constexpr int kRingsPerReading = 8;  // 512 MiB: long enough to time

/// A full ring, and a slot of the same size to copy it to.
class Copies {
 public:
  Copies(Device& device, std::uint64_t block_bytes)
      : pinned_("pinned", kRingBytes),
        gpu_("gpu", kRingBytes),
        ring_(device, pinned_, {block_bytes, static_cast<std::uint32_t>(kRingBytes / block_bytes)}),
        slots_(device, gpu_, kRingBytes, 1),
        begin_(device.make_timed_event()),
        end_(device.make_timed_event()),
        queue_(device.make_copy_queue([] {})) {
    while (std::optional<PinnedRing::Block> block = ring_.try_take()) {
      blocks_.push_back({.block = std::move(*block), .copied = device.make_event()});
    }
  }

  /// As the staging loop does it: block by block, an event behind each.
  void copy_blocks() {
    queue_->record(*begin_);
    for (int i = 0; i < kRingsPerReading; ++i) {
      std::uint64_t offset = 0;
      for (const Use& use : blocks_) {
        const std::span<std::byte> memory = use.block.memory();
        queue_->copy(slots_.address(0) + offset, memory.data(), memory.size());
        queue_->record(*use.copied);
        offset += memory.size();
      }
    }
    wait();
  }

  void copy_whole_ring() {
    queue_->record(*begin_);
    for (int i = 0; i < kRingsPerReading; ++i) {
      queue_->copy(slots_.address(0), ring_.memory().data(), kRingBytes);
    }
    wait();
  }

  /// On the CPU device only: slots are host memory.
  void copy_by_memcpy() {
    for (int i = 0; i < kRingsPerReading; ++i) {
      std::uint64_t offset = 0;
      for (const Use& use : blocks_) {
        const std::span<std::byte> memory = use.block.memory();
        std::memcpy(slots_.address(0) + offset, memory.data(), memory.size());
        offset += memory.size();
      }
    }
  }

  const std::string& registration_refusal() const { return ring_.registration_refusal(); }

 private:
  struct Use {
    PinnedRing::Block block;
    std::unique_ptr<Event> copied;
  };

  void wait() {
    queue_->record(*end_);
    end_->elapsed_since(*begin_);  // for its blocking
  }

  TierBudget pinned_;
  TierBudget gpu_;
  PinnedRing ring_;
  SlotArena slots_;
  std::vector<Use> blocks_;
  std::unique_ptr<Event> begin_;
  std::unique_ptr<Event> end_;
  std::unique_ptr<CopyQueue> queue_;  // last: its end waits for copies
};

void measure(benchmark::State& state, Device& device, std::uint64_t block_bytes) {
  Copies copies(device, block_bytes);
  // On the CPU device slots are host memory, which memcpy reaches; on a GPU the copy engine is the ceiling.
  const bool on_cpu = device.traits().name == "cpu";
  const Ceiling ceiling = {
      on_cpu ? "memcpy by one thread" : "copies of " + format_bytes(kRingBytes),
      [&] { return seconds_of([&] { on_cpu ? copies.copy_by_memcpy() : copies.copy_whole_ring(); }); }};
  compare(
      state, kRingsPerReading * kRingBytes, [&] { return seconds_of([&] { copies.copy_blocks(); }); },
      std::array{ceiling});
  const std::string& refusal = copies.registration_refusal();
  state.SetLabel(fmt::format("{}, ring {}; ceiling {}", device.traits().name,
                             refusal.empty() ? "registered" : "not registered: " + refusal, ceiling.name));
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) {
  using namespace tierstream;
  BenchProgram program("How fast do blocks of the pinned ring get to a slot, by their size?");
  std::string device_name;
  program.command_line().add_option("--device", device_name,
                                    "cpu, cuda or cuda:N (default: cuda if there is one, else cpu)");
  return program.run(argc, argv, [&] {
    const std::shared_ptr<Device> device = make_device(device_name);
    for (const std::uint64_t block : kBlockMiB) {
      program.add(fmt::format("ring_to_slot/block:{}MiB", block),
                  [device, block](benchmark::State& state) { measure(state, *device, block * kMiB); });
    }
  });
}
