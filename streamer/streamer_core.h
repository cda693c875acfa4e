#pragma once

#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/page_cache.h>
#include <tierstream/tiers/pinned_ring.h>
#include <tierstream/tiers/slot_arena.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "clock.h"
#include "hand_off.h"
#include "pass_timer.h"
#include "staging.h"
#include "staging_thread.h"
#include "trace_recorder.h"

namespace tierstream {

/// Throws Error kTensorMissing, listing the layer's tensors.
std::size_t find_tensor(const Layer& layer, std::string_view name);

/// What a Streamer consists of: storage, budgets, one Staging after another and the thread that works on
/// them. Shared between the Streamer and its leases, because a lease may outlive the Streamer and its slot
/// must stay.
class StreamerCore {
 public:
  StreamerCore(LayerTable table, StreamerOptions options);
  ~StreamerCore();

  const LayerTable& table() const noexcept { return table_; }
  const Plan& plan() const noexcept { return staging()->plan(); }
  Device& device() const noexcept { return *device_; }
  const TraceRecorder& trace() const noexcept { return trace_; }
  /// Also the number that stands for the tensors outside the layers.
  std::uint32_t layer_count() const noexcept { return static_cast<std::uint32_t>(table_.layers.size()); }

  struct Leased {
    std::shared_ptr<Staging> staging;
    std::uint32_t place;
  };
  /// Leases a layer and makes the caller's stream wait for its copies.
  Leased acquire(std::uint32_t layer, const AcquireOptions& options);
  TensorView outside_tensor(std::string_view name, const AcquireOptions& options);

  /// The schedule of a pass that names none.
  std::span<const std::uint32_t> default_order() const noexcept { return order_; }
  void begin_pass(std::span<const std::uint32_t> schedule, bool wraps, Stream stream);
  void end_pass(Stream stream) noexcept;

  StreamerStats stats();
  StoragePath storage_path();
  std::string registration_refusal() const { return staging()->registration_refusal(); }
  PageCacheStatus page_cache_status() const;
  RamWeightsStatus ram_weights_status() const;
  std::uint64_t generation() const noexcept { return staging()->generation(); }

  Budget set_budget(const Budget& budget);
  void replace(std::span<const TensorChange> changes);
  Budget park();
  void resume();

  /// Ends the staging thread's work; nothing is staged any more. Idempotent.
  void stop() noexcept;
  /// Stops, and frees the memory of every tier. Throws Error kLeasesOutstanding.
  void close();

 private:
  enum class State : std::uint8_t { kRunning, kParked, kClosed };

  std::shared_ptr<Staging> staging() const noexcept;
  std::shared_ptr<Staging> staging_to_acquire_from();

  Plan make_plan_for(const LayerTable& table, const Budget& budget, const TensorHomes* held = nullptr) const;
  StagingGround ground();
  // With the staging's mutex held.
  void allocate_outside(const Plan& plan);
  void begin_staging(Plan plan);
  void begin_staging_in_room();
  void end_staging();
  void refuse_unless_running() const;
  void refuse_beside_leases(std::string_view what) const;
  Budget held() const noexcept;
  bool leases_of_before() const noexcept;
  void wait_for(HandOff& hand_off, std::uint32_t layer, const Event* ready, Stream stream);
  /// With the mutex held.
  StreamerStats counted(Staging& staging) const;
  StoragePath path_of(const Staging& staging) const;
  void populate() noexcept;

  LayerTable table_;
  StreamerOptions options_;
  std::shared_ptr<Device> device_;
  TierBudget gpu_;
  TierBudget pinned_;
  TierBudget page_cache_;
  SteadyClock clock_;
  TraceRecorder trace_;
  std::vector<std::uint32_t> order_;  // 0..L-1
  State state_ = State::kRunning;
  std::unique_ptr<StorageBackend> storage_;  // null once closed
  Reservation outside_reservation_;
  DeviceMemory outside_;
  bool outside_is_there_ = false;
  mutable std::mutex staging_mutex_;            // guards the next, and changes of it as a whole
  std::shared_ptr<Staging> staging_;            // never null; retired while parked, closed, or without room
  std::vector<std::weak_ptr<Staging>> before_;  // whose leases may use what staging_ has taken over
  bool is_crowded_ = false;                     // leases of before a change of the budget took part of it
  bool in_pass_ = false;
  std::string hang_;             // why something under way did not end; then nothing is freed any more
  PageCacheStatus final_pages_;  // once closed
  StoragePath final_path_;       // once closed

  std::mutex stats_mutex_;  // guards the rest
  PassTimer timer_;
  PassStats last_pass_;
  std::chrono::nanoseconds pass_since_{0};  // for the trace
  StreamerStats final_stats_;               // once closed

  std::jthread populating_;  // last: the threads end before what they use
  std::optional<StagingThread> thread_;
};

}  // namespace tierstream
