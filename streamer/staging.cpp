#include "staging.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace tierstream {
namespace {

std::vector<std::uint8_t> slots_needed(const Plan& plan) {
  std::vector<std::uint8_t> needed(plan.layers.size());
  for (std::size_t i = 0; i < needed.size(); ++i) needed[i] = plan.needs_slot(i);
  return needed;
}

bool any_lands(const Plan& plan) {
  const auto lands = [](const LayerLayout& layout) { return !layout.landings.empty(); };
  return lands(plan.outside) || std::ranges::any_of(plan.layers, lands) ||
         std::ranges::any_of(plan.residents, lands);
}

}  // namespace

Staging::Staging(const StagingGround& ground, Plan plan, std::uint64_t generation, std::byte* outside,
                 bool outside_is_there, Staging* before)
    : ground_(ground),
      plan_(std::move(plan)),
      generation_(generation),
      outside_(outside),
      reads_land_(any_lands(plan_)),
      pages_(make_pages(before)),
      residents_(ground.table, plan_, ground.device, ground.gpu,
                 before != nullptr ? before->hand_over(plan_) : Residents::Shared{}),
      ring_(std::in_place, ground.device, ground.pinned, plan_.ring),
      registration_refusal_(ring_->registration_refusal()),
      slots_(ground.device, ground.gpu, plan_.slot_bytes, plan_.slots),
      copies_(ground.device.make_copy_queue([storage = &ground.storage] { storage->wake(); })),
      hand_off_(
          slots_needed(plan_), {plan_.slots, ground.stable_slots, ground.poison}, slots_, ground.clock,
          [storage = &ground.storage] { storage->wake(); }, ground.trace),
      loop_(StagingParts{.table = ground.table,
                         .plan = plan_,
                         .storage = ground.storage,
                         .device = ground.device,
                         .copies = *copies_,
                         .ring = *ring_,
                         .slots = slots_,
                         .outside_memory = outside,
                         .outside_is_there = outside_is_there,
                         .residents = residents_,
                         .page_cache = pages_.get(),
                         .hand_off = hand_off_,
                         .rule = hand_off_.rule(),
                         .copy_window = ground.copy_window,
                         .trace = ground.trace}) {
  if (pages_) {
    for (LayerLayout& layout : plan_.layers) pages_->split_at_edges(layout.mapped_copies);
  }
  // Here and not earlier: what the ring needs comes first.
  if (!ground.device.traits().is_host) register_ram();
  if (pages_) pages_->begin();
}

Staging::~Staging() {
  if (!leaks_) return;
  (void)pages_.release();   // what is copied from must stay
  (void)copies_.release();  // its end would wait for the copies
}

void Staging::register_ram() {
  ram_ = RamWeights(ground_.table, plan_.homes, ground_.device, ground_.pinned);
  for (LayerLayout& layout : plan_.layers) ram_.split_at_edges(layout.memory_copies);
  for (std::uint32_t layer = 0; layer < plan_.layers.size(); ++layer) {
    ram_.split_at_edges(residents_.missing(layer).memory_copies);
  }
  ram_.split_at_edges(plan_.outside.memory_copies);
}

void Staging::register_memory(bool with_slots) {
  if (plan_.ring.blocks != 0) ground_.storage.register_memory(ring_->memory());
  if (!reads_land_ || !with_slots) return;
  for (std::uint32_t slot = 0; slot < plan_.slots; ++slot)
    ground_.storage.register_memory(slots_.memory(slot));
  ground_.storage.register_memory({outside_, plan_.outside.slot_bytes});
  for (const std::span<std::byte> memory : residents_.memory_to_fill())
    ground_.storage.register_memory(memory);
}

/// In the order in which memory is used: finding and clearing the pages of a whole gpu budget before the
/// first read would keep the first layer waiting.
void Staging::populate(const std::stop_token& stop) noexcept {
  constexpr std::size_t kStep = 32u << 20;
  const auto populate_all = [&](std::span<std::byte> rest) {
    while (!rest.empty() && !stop.stop_requested()) {
      const std::size_t bytes = std::min(kStep, rest.size());
      ground_.device.populate(rest.first(bytes));
      rest = rest.subspan(bytes);
    }
  };
  for (std::uint32_t slot = 0; slot < plan_.slots; ++slot) populate_all(slots_.memory(slot));
  for (const std::span<std::byte> memory : residents_.memory_to_fill()) populate_all(memory);
}

TensorView Staging::tensor(std::uint32_t layer, std::uint32_t place, std::size_t index) const {
  const bool is_outside = layer == ground_.table.layers.size();
  const Layer& specs = is_outside ? ground_.table.outside : ground_.table.layers[layer];
  if (index >= specs.tensors.size()) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("tensor {} of {}: there are {}", index, specs.name, specs.tensors.size()));
  }
  const TensorSpec& spec = specs.tensors[index];
  if (is_outside) return {&spec, outside_ + plan_.outside.tensor_offsets[index]};
  switch (plan_.homes[layer][index]) {
    case TensorHome::kMapped: {
      const auto& extent = std::get<FileExtent>(spec.source);
      return {&spec, const_cast<std::byte*>(pages_->address(extent.file, extent.offset))};
    }
    case TensorHome::kResident:
      return {&spec, residents_.address(layer, index)};
    case TensorHome::kSlot:
      break;
  }
  if (!plan_.needs_slot(layer)) return {&spec, outside_};  // no bytes, in a layer that takes no slot
  return {&spec, slots_.address(place) + plan_.layers[layer].tensor_offsets[index]};
}

void Staging::release(std::uint32_t place, std::span<const Stream> streams) {
  for (const Stream stream : streams) ground_.device.refuse_capture(stream);
  hand_off_.release(place, streams);
  if (is_retired_) free_unleased();
}

void Staging::drop(std::uint32_t place, std::exception_ptr error) noexcept {
  hand_off_.drop(place, std::move(error));
  if (is_retired_) free_unleased();
}

PageCacheStatus Staging::page_cache_status() const {
  if (is_retired_) return last_pages_;
  return pages_ ? pages_->status() : PageCacheStatus{};
}

void Staging::retire() noexcept {
  if (is_retired_) return;
  if (pages_) last_pages_ = pages_->status();
  {
    const std::scoped_lock lock(freeing_);
    keeps_ = true;
  }
  is_retired_ = true;
  hand_off_.retire();
  for (std::uint32_t layer = 0; layer < plan_.layers.size(); ++layer) {
    if (loop_.is_there(layer)) residents_.set_there(layer);
  }
  loop_.let_go();   // its events are still asked by whoever was just granted a layer
  copies_.reset();  // its thread tells the storage, which may go next
  ring_.reset();
  ram_ = {};
  free_unleased();
}

void Staging::free_unleased() noexcept {
  const std::scoped_lock lock(freeing_);
  for (std::uint32_t slot = 0; slot < plan_.slots; ++slot) {
    if (!hand_off_.is_leased(slot)) slots_.free_memory(slot);
  }
  if (keeps_) return;
  const std::vector<std::uint32_t> leased = hand_off_.leased_layers();
  for (std::uint32_t layer = 0; layer < plan_.layers.size(); ++layer) {
    if (std::ranges::find(leased, layer) == leased.end()) residents_.free(layer);
  }
  if (!leased.empty() || !pages_) return;
  if (drops_pages_) pages_->drop();
  pages_.reset();
}

void Staging::free_kept(bool drops_pages) noexcept {
  {
    const std::scoped_lock lock(freeing_);
    keeps_ = false;
    drops_pages_ = drops_pages;
  }
  free_unleased();
}

void Staging::forget(std::size_t layer) noexcept {
  const std::scoped_lock lock(freeing_);
  residents_.free(static_cast<std::uint32_t>(layer));
}

std::unique_ptr<PageCache> Staging::make_pages(Staging* before) const {
  if (plan_.kept.empty()) return nullptr;
  if (before == nullptr) return ground_.make_pages(plan_, nullptr);
  const std::scoped_lock lock(before->freeing_);  // the end of its last lease may free them
  return ground_.make_pages(plan_, before->pages_.get());
}

Residents::Shared Staging::hand_over(const Plan& next) {
  Residents::Shared shared;
  {
    const std::scoped_lock lock(freeing_);
    shared = residents_.hand_over(next);
    if (next.kept.empty() && pages_) {  // no lease uses any
      pages_->drop();
      pages_.reset();
    }
  }
  free_kept(false);
  return shared;
}

Budget Staging::kept() const noexcept {
  const std::scoped_lock lock(freeing_);
  Budget bytes = pages_ ? pages_->reserved_bytes() : Budget{};
  bytes.gpu = residents_.bytes();
  return bytes;
}

void Staging::add_held(TensorHomes& homes) const {
  for (const std::uint32_t layer : hand_off_.leased_layers()) {
    if (layer == homes.size()) continue;  // the tensors outside
    for (std::size_t i = 0; i < homes[layer].size(); ++i) {
      if (plan_.homes[layer][i] != TensorHome::kSlot) homes[layer][i] = plan_.homes[layer][i];
    }
  }
}

bool Staging::leave_to_leak() noexcept {
  constexpr std::chrono::seconds kThreadsEnd{1};  // a read of a disk that answers has ended by then
  ring_->abandon_memory();
  slots_.abandon_memory();
  residents_.abandon();
  ram_.abandon();
  leaks_ = true;
  return pages_ == nullptr || pages_->end_threads(kThreadsEnd);
}

}  // namespace tierstream
