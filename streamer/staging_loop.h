#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/io/storage_backend.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/page_cache.h>
#include <tierstream/tiers/pinned_ring.h>
#include <tierstream/tiers/plan.h>
#include <tierstream/tiers/residents.h>
#include <tierstream/tiers/slot_arena.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "copy_window.h"
#include "hand_off.h"
#include "host_copies.h"
#include "trace_recorder.h"

namespace tierstream {

/// Everything that the loop works with; all of it outlives the loop.
struct StagingParts {
  const LayerTable& table;
  const Plan& plan;
  StorageBackend& storage;  ///< has opened the table's files, in their order
  Device& device;
  CopyQueue& copies;
  PinnedRing& ring;
  SlotArena& slots;
  std::byte* outside_memory;  ///< of the device: `plan.outside.slot_bytes`
  bool outside_is_there;      ///< loaded already, into that memory
  Residents& residents;       ///< of the plan
  PageCache* page_cache;      ///< null where the plan keeps nothing there
  HandOff& hand_off;
  SlotRule rule;
  CopyWindowShape copy_window = {};
  TraceRecorder trace = {};
};

/// Moves layers from storage and host memory into slots, nearest use first: takes slots and blocks as they
/// come free, starts reads, turns finished reads into copies, copies what lies in host memory as far as the
/// copy window has room, and publishes a layer once all its copies are queued.
///
/// No deadlock: a block is taken only for a layer that has its slot, and a block once begun is read to its
/// end, so that it can always be emptied.
/// The four orderings: a block is copied from only when all its reads are done; it goes back to the ring only
/// when its copies are; callers' streams wait for the layer's copies; a slot is taken again only after its
/// fences.
///
/// Has no thread, clock or I/O of its own: `step` is called over and over by one thread, or by a simulation.
/// In steady state it allocates nothing. Throws what the device throws; it must not be stepped after that
/// but for draining.
class StagingLoop {
 public:
  explicit StagingLoop(const StagingParts& parts);

  /// One round: does all that can be done now, then waits in the storage for a completion or a wake-up;
  /// before anything else it handles what the previous round's wait brought.
  void step();

  /// From now on only what is under way is brought to its end.
  void stop();
  /// After `stop`: neither reads nor copies are under way.
  bool drained() const;
  /// Drained: gives the ring's blocks back. It is not stepped any more.
  void let_go() noexcept;
  /// What stays of `layer`, or outside the layers, has come.
  bool is_there(std::uint32_t layer) const { return staying(layer).stage == Target::Stage::kPublished; }

 private:
  /// Memory, and what is on its way into it: a slot and a layer's streamed bytes, or a layer's bytes that
  /// stay, or those outside the layers, each in a place of their own. A layer that takes a slot is published
  /// once what stays of it is there, too.
  struct Target {
    enum class Stage : std::uint8_t {
      kEmpty,
      kFilling,
      kPublished,  ///< or, of what stays beside a slot: there
      kAbandoned,  ///< not wanted any more, but reads or copies into it are still under way
    };
    Stage stage = Stage::kEmpty;
    std::optional<SlotArena::Slot> slot;
    std::byte* memory = nullptr;  ///< null: each resident tensor has its own
    std::uint32_t layer = 0;
    const LayerLayout* layout = nullptr;
    std::unique_ptr<Event> ready;  ///< all its copies
    std::size_t next_landing = 0;  ///< the first that has not been submitted
    std::size_t next_fill = 0;     ///< the first that has no block yet
    HostCopies host_copies;
    std::optional<std::uint32_t> open_block;  ///< its fill's reads are not all submitted
    bool waits_for_pages = false;             ///< of the page-cache tier
    std::uint32_t landings_under_way = 0;
    std::uint32_t blocks_reading = 0;
    std::uint32_t blocks_copying = 0;
    TierBytes load;

    bool is_reading() const { return landings_under_way != 0 || blocks_reading != 0; }
    bool all_reads_begun() const {
      return next_landing == layout->landings.size() && next_fill == layout->fills.size();
    }

    // For the trace.
    std::chrono::nanoseconds landing_since{0};  ///< while landings are under way
    std::uint64_t landed_bytes = 0;             ///< since then
    std::chrono::nanoseconds pages_since{0};    ///< while it waits for pages
  };
  /// One ring block in use.
  struct BlockUse {
    std::optional<PinnedRing::Block> block;
    std::uint32_t target = 0;
    std::span<const FileRead> reads;  ///< of its fill, like the next
    std::span<const BlockCopy> copies;
    std::size_t next_read = 0;
    std::uint32_t reads_under_way = 0;
    std::unique_ptr<Event> copied;
    // For the trace.
    std::chrono::nanoseconds since{0};  ///< taken, then copied from
    std::uint64_t read_bytes = 0;
  };
  /// What a completion belongs to, packed into a request's tag.
  struct ReadId {
    bool landing;
    std::uint32_t index;  ///< of the target, or of the block
    std::uint32_t read;
  };
  static constexpr std::uint64_t kLandingBit = std::uint64_t{1} << 63;
  static std::uint64_t to_tag(const ReadId& id) {
    return (id.landing ? kLandingBit : 0) | (std::uint64_t{id.index} << 32) | id.read;
  }
  static ReadId from_tag(std::uint64_t tag) {
    return {.landing = (tag & kLandingBit) != 0,
            .index = static_cast<std::uint32_t>((tag & ~kLandingBit) >> 32),
            .read = static_cast<std::uint32_t>(tag)};
  }

  std::uint32_t index_of(const Target& target) const;
  std::uint32_t outside_layer() const;
  bool needs_slot(std::uint32_t layer) const;
  bool is_slot(const Target& target) const { return index_of(target) < parts_.rule.slots; }
  /// Of what stays of `layer`.
  Target& staying(std::uint32_t layer) { return targets_[parts_.rule.slots + layer]; }
  const Target& staying(std::uint32_t layer) const { return targets_[parts_.rule.slots + layer]; }
  std::uint64_t mapped_bytes(std::uint32_t layer) const {
    return again_[layer].page_cache + again_[layer].pinned;
  }
  /// Where `layout` puts the byte at `offset`.
  std::byte* place_in(const Target& target, std::uint64_t offset) const {
    return target.memory != nullptr ? target.memory + offset : parts_.residents.target(target.layer, offset);
  }

  void finish_reads();
  void finish_read(const Completion& completion);
  std::exception_ptr read_error(const Target& target, const FileRead& read,
                                const Completion& completion) const;
  void release_unread(BlockUse& use);
  void copy_block(std::uint32_t block_index);
  void finish_copies();

  void give_slots();
  void make_room();
  void make_room_for(std::size_t rank);
  bool give_up(Target& target);
  void assign_targets();
  bool is_free_soon(const Target& target) const;
  std::span<Target> slots_for(std::uint32_t layer);

  void start(Target& target, std::uint32_t layer);
  const LayerLayout& streamed_layout(std::uint32_t layer);
  void take_pages(Target& target);
  void abandon(Target& target);
  void settle(Target& target);
  void finish(Target& target);
  void finish_staying(Target& target);

  void start_reads();
  void start_reads(Target& target);
  void start_landings(Target& target);
  void read_into_open_block(Target& target);
  bool open_block(Target& target);
  void close_block(Target& target);

  void start_copies();
  void start_copies(Target& target);
  bool queue_batch(Target& target);
  std::uint64_t most_batch_bytes();
  void use_kept(Target& target, std::uint64_t& tier, std::uint64_t bytes);
  std::uint64_t& kept_tier(TierBytes& bytes, std::uint32_t file) const;

  /// What is missing of the layer most urgently; null: a slot for it.
  const Target* missing(std::uint32_t layer) const;
  StallCause cause_of_wait() const;
  std::size_t blocks_reading() const;
  std::chrono::nanoseconds patience();

  void queue_copy(std::byte* destination, const std::byte* source, std::uint64_t bytes);
  void meter_links();
  void trace_landings(Target& target, const Completion& completion);
  void trace_block(TraceEvent::Kind kind, BlockUse& use);
  TraceEvent event_of(TraceEvent::Kind kind, const Target& target, std::chrono::nanoseconds begin,
                      std::uint64_t bytes, std::uint32_t block = TraceEvent::kNone) const;
  std::chrono::nanoseconds trace(TraceEvent::Kind kind, const Target& target, std::chrono::nanoseconds begin,
                                 std::uint64_t bytes, std::uint32_t block = TraceEvent::kNone);

  StagingParts parts_;
  std::vector<Target> targets_;  // the slots, then what stays, by layer; the outside is last
  /// By layer, once it was found that its kept pages are not registered: the same, read through storage.
  std::vector<std::optional<LayerLayout>> unregistered_;
  std::vector<TierBytes> again_;         // by layer: what each later use takes from the tiers of what stays
  std::vector<std::uint64_t> read_for_;  // by layer: bytes of kept pages that were read and are not counted
  std::vector<BlockUse> blocks_;
  /// Half the ring: were all of it read at once, the reads would end together, and storage would have nothing
  /// to do while all of it is copied.
  std::size_t max_blocks_reading_;
  std::vector<std::uint32_t> copying_;                   // blocks, in the order of their copies
  CopyWindow copy_window_;                               // copies from memory and from kept pages
  const Event* last_copied_ = nullptr;                   // of the copies queued last; null: seen done
  std::vector<std::optional<std::uint32_t>> target_of_;  // by layer: its slot
  std::size_t open_blocks_ = 0;                          // targets that have one
  std::size_t waiting_for_pages_ = 0;                    // targets that do
  std::vector<std::uint32_t> wanted_;                    // most urgent first
  std::vector<std::uint8_t> is_wanted_;                  // by layer
  std::vector<ReadRequest> requests_;
  std::size_t room_ = 0;  // for requests in requests_
  std::vector<Completion> completions_;
  std::size_t completed_ = 0;  // of completions_, brought by the last wait
  std::size_t handled_ = 0;    // of these
  StallCause cause_ = StallCause::kSlot;
  bool pages_settled_ = false;  // no kept page is to come, or to be registered
  bool slots_pending_ = false;  // a layer waits for its slot, or a slot for what is under way into it
  bool stopping_ = false;
};

}  // namespace tierstream
