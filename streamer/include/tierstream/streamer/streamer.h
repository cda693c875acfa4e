#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/streamer/lease.h>
#include <tierstream/streamer/stats.h>
#include <tierstream/streamer/trace.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/page_cache.h>
#include <tierstream/tiers/plan.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace tierstream {

struct StreamerOptions {
  std::shared_ptr<Device> device = {};  ///< null: the CPU device; shared with other streamers and the caller
  Budget budget = {};
  std::uint32_t max_slots = 3;  ///< a shallow look-ahead is enough; gpu bytes beyond it keep tensors resident
  std::uint64_t request_bytes = 1u << 20;  ///< one read: below the sizes where retries and tails get coarse
  /// Each layer always in the slot `layer mod slots`, so that addresses can be captured in graphs. Where
  /// slots do not divide the layers, one load a pass does not overlap.
  bool stable_slots = false;
  /// Registers the slots with the storage where reads land in them. Off: it takes the first touch of the
  /// whole gpu budget (0.2 s a GiB and more) before the first read, and passes are no faster for it, see
  /// docs/decisions/0004.
  bool register_slots = false;
  /// For finding code that keeps tensors beyond their lease: the end of a slot's last lease fills it with
  /// kPoison, on the stream that it ends on, so that work queued there later computes NaN until the slot is
  /// written to again. So a layer is loaded anew for each use, also where each has a slot of its own, which
  /// the plan's figures and the verdicts do not know. Tensors that stay on the device, and those used where
  /// they are mapped, are not poisoned.
  bool poison = false;
  /// Locks the pages of the page-cache tier in memory. Off, or where RLIMIT_MEMLOCK forbids it, the system
  /// may drop them when memory is short.
  bool lock_pages = true;
  /// How long the end waits for reads and copies under way before it leaves their memory to leak.
  std::chrono::milliseconds end_timeout{10'000};
  /// Called with one line when something is left to leak at the end (memory that a hung read may still write
  /// to). Empty: standard error.
  std::function<void(std::string_view)> warn = {};
  /// Records this streamer's work, and no other's; null: nothing is recorded. Shared with whoever writes it.
  std::shared_ptr<Trace> trace = {};
};

struct AcquireOptions {
  Stream stream =
      {};  ///< the caller's current stream: it waits for the layer, and fences it at the lease's end
  std::stop_token stop = {};
  std::optional<std::chrono::steady_clock::time_point> deadline = {};
};

struct PassOptions {
  std::vector<std::uint32_t> schedule = {};  ///< layers in order of use, repeats allowed; empty: 0..L-1
  bool last = false;  ///< no pass follows: nothing is staged beyond the end of this one
  Stream stream = {};
  std::stop_token stop = {};
};

/// Other bytes for a tensor of a layer.
struct TensorChange {
  std::size_t layer;
  std::size_t tensor;  ///< in the layer; keeps its name
  DType dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t bytes;
  TensorSource source;  ///< a file of the table, or memory that its owner keeps until the streamer is closed
};

struct RamWeightsStatus {
  std::uint64_t registered_bytes = 0;  ///< for DMA, by pages; part of the pinned budget
  std::string refusal;                 ///< why others are copied more slowly; empty: none are
};

class Pass;

/// Stages the layers of a table ahead of their use, within the budgets.
///
///   const Budget budget = Budget::parse("gpu=2GiB,pinned=64MiB");
///   Streamer streamer(checkpoint.layers("model.layers"), {.budget = budget});
///   for (Lease layer : streamer.pass()) use(layer["mlp.up_proj.weight"]);
///
/// One staging thread owns all streaming state; it starts with the constructor and begins at once with the
/// tensors outside the layers and the first layers.
/// Threads: all members may be called from any thread, except that passes are not nested or concurrent, and
/// that `set_budget`, `replace`, `park`, `resume`, `close` and the destructor are called while nobody is in another
/// member; leases may be out, and end on any thread.
/// Errors: the constructor throws Error (budget too small, file changed, ...) before it holds anything. A
/// read or copy that failed surfaces at the `acquire` of the layer it hit, naming file, tensor and offset;
/// the next acquire tries again. After a device error every acquire throws that first error.
/// Processes: the child of a fork() has neither the staging thread nor the copies' and must leave the object
/// alone; it ends by exec or _exit.
class Streamer {
 public:
  Streamer(LayerTable table, StreamerOptions options);
  Streamer(Streamer&&) noexcept;
  Streamer& operator=(Streamer&&) noexcept;
  ~Streamer();

  std::size_t layer_count() const noexcept;
  const LayerTable& table() const noexcept;
  const Plan& plan() const noexcept;  ///< until the budget changes
  Device& device() const noexcept;

  /// Waits until the layer's copies are queued and makes `options.stream` wait for them. Any order; one off
  /// the schedule re-anchors the look-ahead. A layer leased already is shared. Throws Error kTooManyLeases
  /// when every slot is leased to other layers, kCancelled, kTimedOut, kClosed.
  Lease acquire(std::size_t layer, const AcquireOptions& options = {});

  /// A walk over the layers. It wraps: its last layers are used while the first ones of the next pass arrive.
  /// Throws Error kInvalidArgument while another is under way.
  Pass pass(PassOptions options = {});

  /// A tensor outside the layers; waits until it has arrived. Valid until `close` or `park`.
  /// Throws Error kTensorMissing, or the error of its read.
  TensorView outside(std::string_view name, const AcquireOptions& options = {});

  StreamerStats stats() const;
  /// Which way bytes really take, and every fallback with its reason.
  StoragePath storage_path() const;
  /// How the page-cache tier keeps its pages.
  PageCacheStatus page_cache_status() const;
  /// Weights that lie in RAM: how much of them the device reads where they lie.
  RamWeightsStatus ram_weights_status() const;
  /// Why the ring is not registered for DMA; empty when it is.
  std::string registration_refusal() const;

  /// Counts the plans: addresses within layers hold for one generation, but those of tensors that are resident
  /// on the device (or used where they are mapped) in both plans, which are the same in the next.
  std::uint64_t generation() const noexcept;
  /// From now on the tiers hold no more than `budget`: what no lease uses goes back before this returns, the
  /// rest when its lease ends (and the work on its stream). Between passes, or within one. What stays under
  /// both budgets, and what leases use of it, is neither moved nor read again; more of it comes as its layers
  /// come by, and what is streamed is loaded anew. Tensors outside the layers stay where they are. Returns what
  /// leases hold beside the new plan.
  /// Errors: kBudgetTooSmall, and nothing has changed; kOutOfMemory where the machine has less, kFileChanged:
  /// the next `acquire` tries again; kInternal where a read or copy does not end: nothing works any more.
  /// While leases leave too little for the next layer, `acquire` throws kTooManyLeases.
  Budget set_budget(const Budget& budget);
  /// From now on these tensors come from elsewhere. Everything is staged anew, as by set_budget, so that many
  /// changes cost no more than one. Throws Error kLeasesOutstanding while leases are out, kInvalidArgument for
  /// a layer, tensor or part of a file that the table does not have, and kBudgetTooSmall; then nothing has
  /// changed. Otherwise as set_budget.
  void replace(std::span<const TensorChange> changes);
  /// Gives all memory back but the plan, as `set_budget` does; tensors outside the layers go, too, and are to
  /// be asked for again. Acquiring throws kClosed until `resume`. Returns what leases still hold.
  Budget park();
  /// Goes on after `park`. Idempotent.
  void resume();

  /// Ends staging and frees the memory of every tier. Throws Error kLeasesOutstanding when leases are out.
  /// The destructor does the same, but leaves the memory to the last lease. Idempotent.
  void close();

 private:
  friend class Pass;
  std::shared_ptr<StreamerCore> core_;  // shared with the leases, which may outlive the Streamer
};

/// One walk over a schedule. A range of leases: each step acquires the next layer, and a lease held in the
/// loop's variable ends with the loop's body.
/// The pass ends with this object, also when the loop was left early. It must not outlive the Streamer.
class Pass {
 public:
  Pass(Pass&& other) noexcept;
  Pass& operator=(Pass&&) = delete;
  ~Pass();

  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using iterator_concept = std::input_iterator_tag;
    using value_type = Lease;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = Lease;

    Lease operator*() const { return pass_->acquire(position_); }
    Iterator& operator++() {
      ++position_;
      return *this;
    }
    void operator++(int) { ++position_; }
    bool operator==(std::default_sentinel_t) const { return position_ == pass_->size(); }

   private:
    friend class Pass;
    explicit Iterator(Pass& pass) : pass_(&pass) {}
    Pass* pass_;
    std::size_t position_ = 0;
  };

  Iterator begin() { return Iterator(*this); }
  std::default_sentinel_t end() const { return {}; }
  std::size_t size() const noexcept { return schedule_.size(); }

  /// Acquires the layer at `position` of the schedule.
  Lease acquire(std::size_t position);

 private:
  friend class Streamer;
  Pass(Streamer& streamer, PassOptions options);

  Streamer* streamer_;
  std::vector<std::uint32_t> own_schedule_;  // empty: the streamer's default order
  std::span<const std::uint32_t> schedule_;
  Stream stream_;
  std::stop_token stop_;
};

}  // namespace tierstream
