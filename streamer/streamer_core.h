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
#include "staging_loop.h"
#include "trace_recorder.h"

namespace tierstream {

/// Throws Error kTensorMissing, listing the layer's tensors.
std::size_t find_tensor(const Layer& layer, std::string_view name);

/// What a Streamer consists of: the memory of each tier, the staging loop and its thread. Shared between the
/// Streamer and its leases, because a lease may outlive the Streamer and its slot must stay.
class StreamerCore {
 public:
  StreamerCore(LayerTable table, StreamerOptions options);
  ~StreamerCore();

  const LayerTable& table() const noexcept { return table_; }
  const Plan& plan() const noexcept { return plan_; }
  Device& device() const noexcept { return *device_; }
  const TraceRecorder& trace() const noexcept { return trace_; }
  /// Also the number that stands for the tensors outside the layers.
  std::uint32_t layer_count() const noexcept { return static_cast<std::uint32_t>(table_.layers.size()); }

  /// Leases a layer, makes the caller's stream wait for its copies, and returns its place.
  std::uint32_t acquire(std::uint32_t layer, const AcquireOptions& options);
  /// Throws Error kStreamCapturing; the lease then stays.
  void release(std::uint32_t place, std::span<const Stream> streams);
  /// The end of a lease that nobody can refuse: what goes wrong fails the streamer for good.
  void release_for_sure(std::uint32_t place, Stream stream) noexcept;

  TensorView tensor(std::uint32_t layer, std::uint32_t place, std::size_t index) const;
  TensorView outside_tensor(std::string_view name, const AcquireOptions& options);

  /// The schedule of a pass that names none.
  std::span<const std::uint32_t> default_order() const noexcept { return order_; }
  void begin_pass(std::span<const std::uint32_t> schedule, bool wraps, Stream stream);
  void end_pass(Stream stream) noexcept;

  StreamerStats stats();
  StoragePath storage_path();
  const std::string& registration_refusal() const noexcept { return registration_refusal_; }
  PageCacheStatus page_cache_status() const;

  /// Ends the staging thread; nothing is staged any more. Idempotent.
  void stop() noexcept;
  /// Stops, and frees the memory of every tier. Throws Error kLeasesOutstanding.
  void close();

 private:
  /// Everything that holds memory or moves bytes: freed together, last member first, once nothing is under
  /// way.
  struct Staging {
    Staging(StreamerCore& core, std::unique_ptr<StorageBackend> opened);

    std::unique_ptr<StorageBackend> storage;
    std::unique_ptr<FilePageCache> pages;  // null where the plan keeps none
    Reservation staying_reservation;
    DeviceMemory staying;
    PinnedRing ring;
    SlotArena slots;
    std::unique_ptr<CopyQueue> copies;
    HandOff hand_off;
    StagingLoop loop;
  };

  Staging& staging() const;
  void register_memory();
  void wait_for(std::uint32_t layer, const Event* ready, Stream stream);
  void populate_slots(const std::stop_token& stop) noexcept;
  void run(const std::stop_token& stop) noexcept;
  void drain() noexcept;
  void leave_to_leak(std::string_view why) noexcept;
  void free_staging() noexcept;
  /// With the mutex held.
  StreamerStats counted() const;

  LayerTable table_;
  StreamerOptions options_;
  std::shared_ptr<Device> device_;
  TierBudget gpu_;
  TierBudget pinned_;
  TierBudget page_cache_;
  SteadyClock clock_;
  TraceRecorder trace_;
  Plan plan_;
  std::vector<std::uint32_t> order_;  // 0..L-1
  std::unique_ptr<Staging> staging_;  // null once closed
  bool storage_hangs_ = false;        // set by the staging thread at its end
  std::string registration_refusal_;
  PageCacheStatus final_pages_;  // once closed
  bool reads_land_ = false;      // some of them
  StoragePath final_path_;       // once closed

  std::mutex stats_mutex_;  // guards the rest
  PassTimer timer_;
  PassStats last_pass_;
  std::chrono::nanoseconds pass_since_{0};  // for the trace
  StreamerStats final_stats_;               // once closed

  std::jthread populating_;  // last: the threads end before what they use
  std::jthread thread_;
};

}  // namespace tierstream
