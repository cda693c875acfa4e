#include <fmt/format.h>
#include <gtest/gtest.h>
#include <tierstream/tiers/plan.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "hand_off.h"
#include "simulated_links.h"
#include "staging_loop.h"
#include "support/byte_units.h"

namespace tierstream {
namespace {

using testing::LinkedDevice;
using testing::LinkedStorage;
using testing::SimulatedTime;
using testing::WarmPages;

constexpr std::uint32_t kLayers = 24;
/// Llama's layer in small; requests, blocks and chunks are a quarter of the defaults, too.
constexpr std::array<std::uint64_t, 7> kTensorBytes = {kMiB,         kMiB / 4,     kMiB / 4,    kMiB,
                                                       7 * kMiB / 2, 7 * kMiB / 2, 7 * kMiB / 2};
constexpr std::uint64_t kRequestBytes = kMiB / 4;
constexpr std::uint64_t kBlockBytes = 2 * kMiB;  // at most
constexpr std::uint64_t kResidencyChunkBytes = kMiB / 2;
/// Seconds a layer. In no time at all, the caller would find layers of the pass before in their slots still.
constexpr double kLeastCompute = 1e-7;

/// One file, of layers some of which are half as large as others.
LayerTable make_table() {
  LayerTable table;
  std::uint64_t offset = 0;
  for (std::uint32_t i = 0; i < kLayers; ++i) {
    Layer& layer = table.layers.emplace_back(Layer{fmt::format("layers.{}", i), {}});
    for (const std::uint64_t whole : kTensorBytes) {
      const std::uint64_t bytes = i % 3 == 1 ? whole / 2 : whole;
      layer.tensors.push_back({fmt::format("t{}", layer.tensors.size()),
                               DType::kU8,
                               {static_cast<std::int64_t>(bytes)},
                               bytes,
                               FileExtent{0, offset}});
      offset += bytes;
    }
  }
  table.files.push_back(
      {"model",
       {.bytes = offset, .offset_alignment = 4096, .memory_alignment = 4096, .is_local_file = true}});
  return table;
}

struct Machine {
  const char* name;
  bool is_host;
  bool reads_land;
  double disk;            ///< GB/s
  double host_to_device;  ///< GB/s
};
void PrintTo(const Machine& machine, std::ostream* out) { *out << machine.name; }
constexpr std::array kMachines = {
    Machine{"HostLanding", true, true, 2, 8},         Machine{"HostRing", true, false, 2, 8},
    Machine{"HostRingSlowCopies", true, false, 8, 3}, Machine{"DeviceSlowDisk", false, false, 2, 50},
    Machine{"DeviceFastDisk", false, false, 12, 25},  Machine{"DeviceEqualLinks", false, false, 12, 12},
};

struct Room {
  const char* name;
  std::uint32_t slots;
  std::uint64_t ring_bytes;
};
void PrintTo(const Room& room, std::ostream* out) { *out << room.name; }
constexpr std::array kRooms = {
    Room{"Roomy", 3, 16 * kMiB},
    // With fewer blocks they stay taken while pages of later layers are copied, which predictions leave out.
    Room{"SmallRing", 3, 8 * kRequestBytes},
    // Of blocks of one read. Larger ones are copied later than predicted, which shows only here.
    Room{"OneSlot", 1, 16 * kRequestBytes},
};

/// The staging loop over links of fixed rates, and a caller who computes on each layer and gives it back; on
/// one thread, in simulated time.
class TimedStaging {
 public:
  TimedStaging(const LayerTable& table, const Plan& plan, const Machine& machine,
               std::chrono::nanoseconds compute)
      : table_(table),
        plan_(plan),
        compute_(compute),
        storage_(time_, machine.disk * 1e9, table.files.front().info),
        device_(time_, machine.host_to_device * 1e9,
                {.name = machine.name,
                 .reads_land = machine.reads_land,
                 .is_host = machine.is_host,
                 .memory_alignment = kSlotAlignment}) {
    storage_.open(table_.files.front().path);
    std::iota(order_.begin(), order_.end(), 0u);
  }

  struct Passes {
    double seconds = 0;
    std::uint64_t disk_bytes = 0;
  };
  /// One pass may read ahead for the next: only several tell what one of them takes.
  Passes walk(int passes) {
    Passes walked;
    const SimulatedTime::Moment begin = time_.now();
    for (int i = 0; i < passes; ++i) {
      hand_off_.begin_pass(order_, true);
      for (const std::uint32_t layer : order_) use(layer);
      walked.disk_bytes += hand_off_.end_pass().bytes.disk;
    }
    walked.seconds = std::chrono::duration<double>(time_.now() - begin).count();
    return walked;
  }

 private:
  void advance() {
    storage_.wait();
    loop_.step();
  }

  void use(std::uint32_t layer) {
    std::optional<HandOff::Grant> grant;
    while (!(grant = hand_off_.try_acquire(layer))) advance();
    for (const Event* ready : {grant->ready.streamed, grant->ready.staying}) {
      while (ready != nullptr && !ready->done()) advance();
    }
    const SimulatedTime::Moment end = time_.now() + compute_;
    time_.expect(end);
    while (time_.now() < end) advance();
    hand_off_.release(grant->place, std::array{Stream{}});
  }

  std::vector<std::uint8_t> slots_needed() const {
    std::vector<std::uint8_t> needed;
    for (std::size_t i = 0; i < plan_.layers.size(); ++i) needed.push_back(plan_.needs_slot(i));
    return needed;
  }

  const LayerTable& table_;
  const Plan& plan_;
  std::chrono::nanoseconds compute_;
  SimulatedTime time_;
  LinkedStorage storage_;
  LinkedDevice device_;
  WarmPages pages_;
  TierBudget gpu_{"gpu", plan_.used.gpu};
  TierBudget pinned_{"pinned", plan_.used.pinned};
  PinnedRing ring_{device_, pinned_, plan_.ring};
  SlotArena slots_{device_, gpu_, plan_.slot_bytes, plan_.slots};
  Residents residents_{table_, plan_, device_, gpu_};
  std::unique_ptr<CopyQueue> copies_ = device_.make_copy_queue({});
  SlotRule rule_{.slots = plan_.slots, .stable = false};
  HandOff hand_off_{slots_needed(), rule_, slots_, time_, [this] { storage_.wake(); }};
  StagingLoop loop_{{.table = table_,
                     .plan = plan_,
                     .storage = storage_,
                     .device = device_,
                     .copies = *copies_,
                     .ring = ring_,
                     .slots = slots_,
                     .outside_memory = nullptr,  // nothing lies outside the layers
                     .outside_is_there = false,
                     .residents = residents_,
                     .page_cache = &pages_,
                     .hand_off = hand_off_,
                     .rule = rule_}};
  std::vector<std::uint32_t> order_ = std::vector<std::uint32_t>(kLayers);
};

/// A machine, its room, and the time that a layer computes as a share of what its bytes take on the slower
/// link.
class Prediction : public ::testing::TestWithParam<std::tuple<Machine, Room, double>> {};

TEST_P(Prediction, IsWithinATenthOfThePassOverTheWholeCurveOfBudgets) {
  const auto& [machine, room, compute_share] = GetParam();
  constexpr std::uint64_t kSteps = 8;
  constexpr int kPasses = 4;
  const LayerTable table = make_table();
  const std::uint64_t model_bytes = table.files.front().info.bytes;
  const LinkRates rates{.disk = machine.disk * 1e9, .host_to_device = machine.host_to_device * 1e9};
  const double slower_link = std::min(rates.disk, rates.host_to_device);
  const double compute =
      kLeastCompute + compute_share * static_cast<double>(model_bytes) / kLayers / slower_link;
  const std::vector<double> layer_seconds(kLayers, compute);
  for (const std::uint64_t resident_bytes : {std::uint64_t{0}, model_bytes / 3}) {
    for (std::uint64_t step = 0; step <= kSteps; ++step) {
      SCOPED_TRACE(
          fmt::format("{} resident, {}/{} in the page cache", format_bytes(resident_bytes), step, kSteps));
      const Plan plan = make_plan(table,
                                  {.gpu = room.slots * table.layers.front().bytes() + resident_bytes,
                                   .pinned = room.ring_bytes,
                                   .page_cache = model_bytes * step / kSteps},
                                  rates,
                                  {.reads_land = machine.reads_land,
                                   .is_host = machine.is_host,
                                   .max_slots = room.slots,
                                   .request_bytes = kRequestBytes,
                                   .max_block_bytes = kBlockBytes,
                                   .chunk_bytes = kResidencyChunkBytes,
                                   .layer_seconds = layer_seconds});
      TimedStaging staging(table, plan, machine, std::chrono::nanoseconds(std::llround(compute * 1e9)));
      staging.walk(2);
      const TimedStaging::Passes passes = staging.walk(kPasses);
      EXPECT_EQ(passes.disk_bytes, kPasses * plan.disk_bytes);
      const double seconds = passes.seconds / kPasses;
      EXPECT_NEAR(plan.predicted_seconds, seconds, 0.1 * seconds);
      EXPECT_GE(seconds, 0.999 * plan.bound_seconds);
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<Prediction::ParamType>& test) {
  const auto& [machine, room, compute_share] = test.param;
  return fmt::format("{}{}Compute{:.0f}Percent", machine.name, room.name, 100 * compute_share);
}
INSTANTIATE_TEST_SUITE_P(Links, Prediction,
                         ::testing::Combine(::testing::ValuesIn(kMachines), ::testing::ValuesIn(kRooms),
                                            ::testing::Values(0.0, 0.5, 1.0, 2.0)),
                         name_of);

}  // namespace
}  // namespace tierstream
