#pragma once

#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace tierstream {

/// Equal slots of device memory at stable addresses. Each slot holds the streamed part of one layer
/// while the layer is in use.
///
/// A slot given back is handed out again only after its fences: the points, one per stream, up to which work
/// queued by then may still read it.
/// Outlives its slots. Threads: one at a time; `fence` and `poison` may be called by another thread than
/// `try_take`, if the callers order them.
class SlotArena {
 public:
  SlotArena(Device& device, TierBudget& budget, std::uint64_t slot_bytes, std::uint32_t slots);
  SlotArena(const SlotArena&) = delete;
  SlotArena& operator=(const SlotArena&) = delete;

  /// A slot in use; its end gives it back.
  class Slot {
   public:
    Slot(Slot&& other) noexcept;
    Slot& operator=(Slot&& other) noexcept;
    ~Slot();
    std::uint32_t index() const noexcept { return index_; }

   private:
    friend class SlotArena;
    Slot(SlotArena& arena, std::uint32_t index) : arena_(&arena), index_(index) {}
    SlotArena* arena_;
    std::uint32_t index_;
  };

  /// A free slot whose fences are done; empty when there is none.
  std::optional<Slot> try_take();
  /// The same, of one slot only.
  std::optional<Slot> try_take(std::uint32_t index);

  /// Slot `index`, in use now, is not to be handed out again before all work queued on `stream` so far is
  /// done.
  void fence(std::uint32_t index, Stream stream);
  /// Slot `index`, fenced by all that used it: fills it with kPoison on `stream`, after those fences, and is
  /// fenced by that, too.
  void poison(std::uint32_t index, Stream stream);

  std::uint32_t slots() const noexcept { return static_cast<std::uint32_t>(states_.size()); }
  std::uint64_t slot_bytes() const noexcept { return slot_bytes_; }
  std::byte* address(std::uint32_t index) const noexcept { return states_[index].memory.data(); }
  std::span<std::byte> memory(std::uint32_t index) const noexcept { return {address(index), slot_bytes_}; }
  /// True when a slot was given back and waits for a fence.
  bool fences_pending() const;
  /// Leaves the memory to leak when destroyed: a read or copy that never ended may still write to it.
  void abandon_memory() noexcept;
  /// Frees the memory of one slot, for good, and gives its bytes back; nothing is under way into it. Work
  /// that is queued on the device and still reads it is waited for by the device. Idempotent.
  void free_memory(std::uint32_t index) noexcept;

 private:
  struct Fence {
    Stream stream;
    std::unique_ptr<Event> event;
  };
  /// Fences are kept, one per stream that ever used the slot, and recorded anew: a steady pass makes none.
  struct State {
    Reservation reservation;
    DeviceMemory memory;
    bool taken = false;
    std::vector<Fence> fences;
  };
  bool fences_done(const State& state) const;

  Device& device_;
  std::uint64_t slot_bytes_;
  std::vector<State> states_;
};

}  // namespace tierstream
