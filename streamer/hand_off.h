#pragma once

#include <tierstream/streamer/stats.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/slot_arena.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <variant>
#include <vector>

#include "clock.h"
#include "link_meter.h"
#include "schedule.h"
#include "trace_recorder.h"

namespace tierstream {

/// Which slot a layer may use, and what becomes of it.
struct SlotRule {
  std::uint32_t slots;
  bool stable;           ///< each layer in one slot only, its stable one
  bool poisons = false;  ///< the end of a slot's last lease poisons it: the layer is not there any more

  std::uint32_t stable_slot_of(std::uint32_t layer) const { return layer % slots; }
  bool allows(std::uint32_t layer, std::uint32_t slot) const {
    return !stable || stable_slot_of(layer) == slot;
  }
};

/// What callers and the staging loop say to each other: which layers are ready where, who leases them, who
/// waits for what, and where in the schedule the callers are.
///
/// Layers are numbered 0..L-1; number L stands for the tensors outside the layers. A layer's bytes are of two
/// kinds: those that are streamed, in a slot, and those that stay. A layer that has none to stream takes no
/// slot: it has a place of its own behind the slots, is published once and never reclaimed; so are the
/// tensors outside.
///
/// Threads: any; one mutex, held for a few operations on preallocated state and, at a release, for recording
/// the slot's fence (and for poisoning the slot, which takes the time on the CPU device). Without blocking
/// calls (`acquire`) it is driven by one thread in the simulation.
class HandOff {
 public:
  /// `wake_loop` ends the loop's wait; called without the mutex.
  /// `needs_slot`: by layer.
  HandOff(std::vector<std::uint8_t> needs_slot, SlotRule rule, SlotArena& arena, const Clock& clock,
          std::function<void()> wake_loop, TraceRecorder trace = {});

  const SlotRule& rule() const noexcept { return rule_; }
  /// The place of a layer that takes no slot, and of the tensors outside.
  std::uint32_t own_place(std::uint32_t layer) const { return rule_.slots + layer; }

  /// Goes on where `before`, of the same layers, stood: its schedule and its statistics. Neither is in use.
  void carry_on(const HandOff& before);

  // --- Callers ---

  /// What a caller's stream waits for; belongs to the loop, valid while the layer is leased.
  struct Ready {
    const Event* streamed = nullptr;  ///< null: the layer takes no slot
    const Event* staying = nullptr;   ///< null: nothing of it stays
  };

  struct Grant {
    std::uint32_t place;  ///< a slot, or the layer's own place
    Ready ready;
  };

  /// Leases `layer` if it is published. Otherwise empty: the look-ahead is anchored at it, and the loop
  /// woken. Throws the layer's read error (once, and only one that came while a caller waited), Error
  /// kTooManyLeases, or the first device error.
  std::optional<Grant> try_acquire(std::uint32_t layer);

  /// Waits for it. Throws also Error kCancelled and kTimedOut.
  Grant acquire(std::uint32_t layer, const std::stop_token& stop,
                std::optional<std::chrono::steady_clock::time_point> deadline);

  /// Says that a caller waits for `layer`, which makes it the most urgent, until `try_end_wait` grants or
  /// throws, or the caller gives up by `end_wait`.
  void begin_wait(std::uint32_t layer);
  std::optional<Grant> try_end_wait(std::uint32_t layer);
  void end_wait(std::uint32_t layer);

  /// Ends a lease. The slot is fenced by `streams`: the one at acquire and the current one.
  void release(std::uint32_t place, std::span<const Stream> streams);

  /// Ends a lease whose slot could not be fenced: nothing may be staged any more, see fail_for_good.
  void drop(std::uint32_t place, std::exception_ptr error) noexcept;

  void begin_pass(std::span<const std::uint32_t> order, bool wraps);
  /// Statistics of the pass that ends here; its seconds are the caller's to fill in.
  PassStats end_pass();
  PassStats total() const;
  void add_stall(StallCause cause, std::chrono::nanoseconds time);
  std::uint32_t leases() const;
  bool is_leased(std::uint32_t place) const;
  std::vector<std::uint32_t> leased_layers() const;

  /// Every later acquire throws `error`; waiting ones too. No layer is wanted any more. The first call
  /// counts.
  void fail_for_good(std::exception_ptr error) noexcept;

  /// Thrown to those who acquire or wait once another hand-off has taken this one's place.
  struct Retired {};
  void retire() noexcept;

  // --- The staging loop ---

  struct Round {
    bool changed;  ///< callers or the loop have done something since the last round that may ask for another
                   ///< use of the slots
    bool someone_waits;
  };
  /// What the loop should know at the beginning of a round: fills `wanted`, where anything changed, with the
  /// layers to stage, most urgent first, and charges the time since the last call to `cause` if someone
  /// waited.
  Round begin_round(std::vector<std::uint32_t>& wanted, StallCause cause);
  /// The same charge alone, before a publication ends the wait.
  void charge_wait(StallCause cause);
  /// The next round finds out anew what is wanted.
  void look_again() noexcept { is_changed_ = true; }
  /// More than `begin_round` fills in, unless very many callers wait.
  std::size_t most_wanted() const;
  /// False: callers have changed something since `begin_round`. True: the next change will wake the loop.
  bool may_sleep();

  /// The bytes of a layer that stay have come, by `load`; each later use takes `again` from the tiers.
  void stay(std::uint32_t layer, const Event& ready, const TierBytes& load, const TierBytes& again);
  /// Publishes a layer in a slot, after what stays of it.
  void publish(std::uint32_t slot, std::uint32_t layer, const Event& ready, const TierBytes& load);
  /// Publishes a layer that takes no slot.
  void publish(std::uint32_t layer);
  /// Takes a published, unleased layer back. False: it is leased.
  bool try_reclaim(std::uint32_t slot);
  /// The published slot was poisoned: the layer is not in it any more.
  bool is_poisoned(std::uint32_t slot) const;
  /// One of those who wait for `layer` gets `error`. Waits nobody, it is forgotten, and the layer staged
  /// again when somebody does: an error is never older than the wait that it ends.
  void fail(std::uint32_t layer, std::exception_ptr error);
  /// Bytes moved for a layer that was given up before it was published.
  void add_unused(const TierBytes& load);
  /// What the loop says of its links; without the mutex.
  LinkMeters& links() noexcept { return links_; }

 private:
  static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

  struct Place {
    std::uint32_t layer = kNone;
    std::uint32_t leases = 0;
    const Event* ready = nullptr;
    TierBytes load;  ///< moved for this publication
    bool load_counted = false;
    bool is_poisoned = false;
  };
  /// Of a layer's bytes that stay.
  struct Stay {
    const Event* ready = nullptr;
    TierBytes load;  ///< moved once
    TierBytes again;
    bool load_counted = false;
  };
  struct Waiting {
    std::uint32_t layer;
    std::uint32_t callers;
  };

  /// How a wait ends.
  using Answer = std::variant<Grant, std::exception_ptr>;
  static Grant get(const Answer& answer);

  // With the mutex held. `wake` is set, or true returned, when the loop must be woken once the mutex is free.
  std::optional<Grant> grant(std::uint32_t layer, bool& wake);
  std::optional<Answer> answer_to(std::uint32_t layer, bool& wake);
  [[nodiscard]] bool leave(std::uint32_t layer);
  bool is_waited_for(std::uint32_t layer) const;
  void refuse_hopeless(std::uint32_t layer) const;
  bool needs_slot(std::uint32_t layer) const { return needs_slot_[layer] != 0; }
  void find_wanted(std::vector<std::uint32_t>& wanted);
  void announce(std::uint32_t place, std::uint32_t layer);
  void poison(std::uint32_t slot, Stream stream);
  void charge(StallCause cause);
  void count_stall(StallCause cause, std::chrono::nanoseconds time);
  void account(Place& place);
  void count_unused(const TierBytes& load);
  LinksWork links_work() const { return links_carried_ + links_.work(); }
  /// Marks a change and returns whether the loop sleeps and must be woken once the mutex is free.
  [[nodiscard]] bool changed();

  std::vector<std::uint8_t> needs_slot_;  // by layer, and 0 for the outside
  const std::uint32_t layers_;
  const SlotRule rule_;
  SlotArena& arena_;
  const Clock& clock_;
  const std::function<void()> wake_loop_;
  const TraceRecorder trace_;
  LinkMeters links_;

  mutable std::mutex mutex_;
  std::condition_variable published_;
  Schedule schedule_;
  std::vector<Place> places_;                 // the slots', then each layer's own, the outside's last
  std::vector<Stay> stays_;                   // by layer
  std::uint32_t to_come_ = 0;                 // layers without a slot that are not published yet
  std::vector<std::uint32_t> place_of_;       // by layer
  std::vector<std::exception_ptr> failures_;  // by layer; thrown once, to one of those who wait
  std::vector<std::uint8_t> only_on_demand_;  // by layer: its last read failed
  std::exception_ptr failed_for_good_;
  bool is_retired_ = false;
  std::vector<Waiting> waiting_;
  std::vector<std::uint32_t> known_;  // of find_wanted; kept for its capacity
  std::chrono::nanoseconds charged_until_{0};
  // Asked by the loop without the mutex, so that a round which only moves bytes on takes none.
  std::atomic<bool> is_changed_ = true;
  std::atomic<bool> loop_sleeps_ = false;
  std::atomic<bool> someone_waits_ = false;
  PassStats current_;
  PassStats total_;
  LinksWork links_carried_;  // from other budgets' hand-offs
  LinksWork links_before_;   // the pass
};

}  // namespace tierstream
