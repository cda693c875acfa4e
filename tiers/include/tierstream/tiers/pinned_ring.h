#pragma once

#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/host_memory.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tierstream {

struct RingShape {
  std::uint64_t block_bytes = 0;
  std::uint32_t blocks = 0;
  std::uint64_t bytes() const noexcept { return block_bytes * blocks; }
};

/// The bounded pool of host memory that disk bytes pass through on their way to the device: equal blocks,
/// registered for DMA, taken and given back in any order.
///
/// Outlives its blocks. Threads: one at a time.
/// Errors: the constructor throws Error kBudgetTooSmall or kOutOfMemory; a refused registration is recorded.
class PinnedRing {
 public:
  PinnedRing(Device& device, TierBudget& budget, RingShape shape);
  PinnedRing(const PinnedRing&) = delete;
  PinnedRing& operator=(const PinnedRing&) = delete;

  /// A block in use; its end gives it back. Its user makes sure that neither a read nor a copy still uses the
  /// memory by then.
  class Block {
   public:
    Block(Block&& other) noexcept;
    Block& operator=(Block&& other) noexcept;
    ~Block();
    std::uint32_t index() const noexcept { return index_; }
    std::span<std::byte> memory() const noexcept;

   private:
    friend class PinnedRing;
    Block(PinnedRing& ring, std::uint32_t index) : ring_(&ring), index_(index) {}
    PinnedRing* ring_;
    std::uint32_t index_;
  };

  /// Empty when all blocks are in use.
  std::optional<Block> try_take();

  const RingShape& shape() const noexcept { return shape_; }
  std::uint32_t free_blocks() const noexcept { return static_cast<std::uint32_t>(free_.size()); }
  std::span<std::byte> memory() const noexcept { return memory_.span(); }
  /// Why the memory is not registered for DMA; empty when it is.
  const std::string& registration_refusal() const noexcept { return refusal_; }
  /// Leaves the memory to leak when destroyed: a read that never ended may still write to it.
  void abandon_memory() noexcept;

 private:
  RingShape shape_;
  Reservation reservation_;
  HostMemory memory_;
  std::string refusal_;
  HostRegistration registration_;
  std::vector<std::uint32_t> free_;
};

}  // namespace tierstream
