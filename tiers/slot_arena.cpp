#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/slot_arena.h>

#include <algorithm>
#include <utility>

namespace tierstream {

SlotArena::SlotArena(Device& device, TierBudget& budget, std::uint64_t slot_bytes, std::uint32_t slots)
    : device_(device), slot_bytes_(slot_bytes), states_(slots) {
  // Refused as a whole, and before any is allocated.
  {
    const Reservation all =
        budget.reserve(slot_bytes * slots,
                       fmt::format("memory for {} of {}", counted(slots, "slot"), format_bytes(slot_bytes)));
  }
  for (State& state : states_) state.reservation = budget.reserve(slot_bytes, "a slot");
  for (State& state : states_) state.memory = device.allocate(slot_bytes);
}

void SlotArena::abandon_memory() noexcept {
  for (State& state : states_) state.memory.abandon();
}

void SlotArena::free_memory(std::uint32_t index) noexcept {
  states_[index].memory = {};
  states_[index].reservation = {};
}

std::optional<SlotArena::Slot> SlotArena::try_take() {
  for (std::uint32_t index = 0; index < slots(); ++index) {
    if (auto slot = try_take(index)) return slot;
  }
  return std::nullopt;
}

std::optional<SlotArena::Slot> SlotArena::try_take(std::uint32_t index) {
  State& state = states_[index];
  if (state.taken || !fences_done(state)) return std::nullopt;
  state.taken = true;
  return Slot(*this, index);
}

void SlotArena::fence(std::uint32_t index, Stream stream) {
  auto& fences = states_[index].fences;
  auto fence = std::ranges::find(fences, stream, &Fence::stream);
  if (fence == fences.end()) fence = fences.insert(fence, Fence{stream, device_.make_event()});
  fence->event->record(stream);
}

void SlotArena::poison(std::uint32_t index, Stream stream) {
  for (const Fence& fence : states_[index].fences) fence.event->make_wait(stream);
  device_.fill(memory(index), kPoison, stream);
  fence(index, stream);
}

bool SlotArena::fences_pending() const {
  return std::ranges::any_of(states_,
                             [this](const State& state) { return !state.taken && !fences_done(state); });
}

bool SlotArena::fences_done(const State& state) const {
  return std::ranges::all_of(state.fences, [](const Fence& fence) { return fence.event->done(); });
}

SlotArena::Slot::Slot(Slot&& other) noexcept
    : arena_(std::exchange(other.arena_, nullptr)), index_(other.index_) {}

SlotArena::Slot& SlotArena::Slot::operator=(Slot&& other) noexcept {
  Slot taken(std::move(other));
  std::swap(arena_, taken.arena_);
  std::swap(index_, taken.index_);
  return *this;
}

SlotArena::Slot::~Slot() {
  if (arena_ != nullptr) arena_->states_[index_].taken = false;
}

}  // namespace tierstream
