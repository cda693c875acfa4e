#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/pinned_ring.h>

#include <utility>

namespace tierstream {

PinnedRing::PinnedRing(Device& device, TierBudget& budget, RingShape shape)
    : shape_(shape),
      reservation_(
          budget.reserve(shape.bytes(), fmt::format("a ring of {} of {}", counted(shape.blocks, "block"),
                                                    format_bytes(shape.block_bytes)))),
      memory_(shape.bytes()),
      registration_(shape.blocks == 0 ? HostRegistration() : device.register_host(memory_.span(), refusal_)) {
  free_.reserve(shape.blocks);  // so that giving a block back cannot throw
  for (std::uint32_t index = shape.blocks; index > 0; --index) free_.push_back(index - 1);
}

std::optional<PinnedRing::Block> PinnedRing::try_take() {
  if (free_.empty()) return std::nullopt;
  const std::uint32_t index = free_.back();
  free_.pop_back();
  return Block(*this, index);
}

void PinnedRing::abandon_memory() noexcept {
  registration_.abandon();
  memory_.release();
}

PinnedRing::Block::Block(Block&& other) noexcept
    : ring_(std::exchange(other.ring_, nullptr)), index_(other.index_) {}

PinnedRing::Block& PinnedRing::Block::operator=(Block&& other) noexcept {
  Block taken(std::move(other));
  std::swap(ring_, taken.ring_);
  std::swap(index_, taken.index_);
  return *this;
}

PinnedRing::Block::~Block() {
  if (ring_ != nullptr) ring_->free_.push_back(index_);
}

std::span<std::byte> PinnedRing::Block::memory() const noexcept {
  const std::uint64_t block_bytes = ring_->shape_.block_bytes;
  return ring_->memory().subspan(index_ * block_bytes, block_bytes);
}

}  // namespace tierstream
