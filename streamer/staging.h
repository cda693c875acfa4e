#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/io/storage_backend.h>
#include <tierstream/streamer/lease.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/page_cache.h>
#include <tierstream/tiers/pinned_ring.h>
#include <tierstream/tiers/plan.h>
#include <tierstream/tiers/ram_weights.h>
#include <tierstream/tiers/residents.h>
#include <tierstream/tiers/slot_arena.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "clock.h"
#include "hand_off.h"
#include "staging_loop.h"
#include "trace_recorder.h"

namespace tierstream {

/// What outlives each Staging.
struct StagingGround {
  const LayerTable& table;
  StorageBackend& storage;  ///< has opened the table's files
  Device& device;
  TierBudget& gpu;
  TierBudget& pinned;
  TierBudget& page_cache;
  /// Makes the page-cache tier of a plan that keeps pages, out of that of another plan (null: none).
  std::function<std::unique_ptr<PageCache>(const Plan&, PageCache* before)> make_pages;
  const Clock& clock;
  TraceRecorder trace;
  bool stable_slots;
  bool poison;
  CopyWindowShape copy_window = {};
};

/// All that one plan holds and moves: the memory of each tier but that of the tensors outside the layers, and
/// the loop over it. Another budget makes another Staging; leases keep theirs alive.
/// Threads: as its parts; `release` any.
class Staging {
 public:
  /// `outside`: memory of the device, for the tensors outside the layers. `before` (null: none), retired, on
  /// the same ground: hands over what both plans keep, and frees the rest that no lease uses. `plan` has what
  /// its leases hold (see `held`).
  Staging(const StagingGround& ground, Plan plan, std::uint64_t generation, std::byte* outside,
          bool outside_is_there, Staging* before);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const Plan& plan() const noexcept { return plan_; }
  std::uint64_t generation() const noexcept { return generation_; }
  HandOff& hand_off() noexcept { return hand_off_; }
  /// Until it is retired.
  StagingLoop& loop() noexcept { return loop_; }
  /// Null once retired.
  const PinnedRing* ring() const noexcept { return ring_ ? &*ring_ : nullptr; }
  /// Null where the plan keeps no pages, and once retired.
  PageCache* pages() const noexcept { return is_retired_ ? nullptr : pages_.get(); }
  /// As it was, once retired.
  PageCacheStatus page_cache_status() const;
  const std::string& registration_refusal() const noexcept { return registration_refusal_; }
  const RamWeights& ram() const noexcept { return ram_; }  ///< empty once retired
  bool reads_land() const noexcept { return reads_land_; }

  TensorView tensor(std::uint32_t layer, std::uint32_t place, std::size_t index) const;

  /// Tells the storage where reads will land; a refusal shows in its path.
  void register_memory(bool with_slots);
  /// Finds pages for what the device finds only at the first touch, until `stop` is set.
  void populate(const std::stop_token& stop) noexcept;

  void release(std::uint32_t place, std::span<const Stream> streams);
  void drop(std::uint32_t place, std::exception_ptr error) noexcept;

  /// Once nothing is under way: frees the ring and the slots that no lease uses, now, and the others as
  /// leases end. What stays between passes is kept for the next Staging. Whoever waits for a layer is told
  /// so.
  void retire() noexcept;
  bool is_retired() const noexcept { return is_retired_; }
  /// Once retired: what it keeps for the next one is freed, as far as no lease uses it, and the rest as
  /// leases end. `drops_pages`: from the system's page cache, too.
  void free_kept(bool drops_pages) noexcept;
  /// Once retired, with no lease out: the next one loads what stays of `layer` anew.
  void forget(std::size_t layer) noexcept;
  /// Bytes that the next Staging may take over.
  Budget kept() const noexcept;
  /// Adds the homes of tensors that leases use, other than in slots, to `homes`.
  void add_held(TensorHomes& homes) const;
  /// Something is still under way and does not end: its memory is never freed. Leases may go on using theirs.
  /// False: threads that bring kept pages do not end either, and use the device.
  [[nodiscard]] bool leave_to_leak() noexcept;

 private:
  Residents::Shared hand_over(const Plan& next);
  std::unique_ptr<PageCache> make_pages(Staging* before) const;
  void register_ram();
  void free_unleased() noexcept;

  const StagingGround ground_;
  Plan plan_;
  const std::uint64_t generation_;
  std::byte* const outside_;
  const bool reads_land_;
  std::unique_ptr<PageCache> pages_;
  RamWeights ram_;
  Residents residents_;
  std::optional<PinnedRing> ring_;
  std::string registration_refusal_;
  SlotArena slots_;
  std::unique_ptr<CopyQueue> copies_;
  HandOff hand_off_;
  StagingLoop loop_;            // holds blocks of the ring
  PageCacheStatus last_pages_;  // once retired
  bool leaks_ = false;

  mutable std::mutex freeing_;  // guards what follows, and what is kept once retired
  bool keeps_ = false;          // for the next
  bool drops_pages_ = false;
  std::atomic<bool> is_retired_ = false;
};

}  // namespace tierstream
