#include <tierstream/tiers/residents.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace tierstream {
namespace {

constexpr std::uint64_t begin_of_page(std::uint64_t offset) {
  return offset / kSlotAlignment * kSlotAlignment;
}

std::uint64_t loaded_bytes(const LayerLayout& layout) { return layout.disk_bytes() + layout.memory_bytes(); }

}  // namespace

Residents::Residents(const LayerTable& table, const Plan& plan, Device& device, TierBudget& budget,
                     Shared taken_over)
    : tensors_(std::move(taken_over)), layers_(table.layers.size()) {
  tensors_.resize(table.layers.size());
  for (std::uint32_t layer = 0; layer < layers_.size(); ++layer) {
    tensors_[layer].resize(table.layers[layer].tensors.size());
    find_missing(table, plan, layer);
    allocate(table, plan, device, budget, layer);
  }
}

void Residents::find_missing(const LayerTable& table, const Plan& plan, std::uint32_t layer) {
  LayerPlaces& own = layers_[layer];
  own.missing = plan.residents[layer];
  std::vector<TensorHome> homes = plan.homes[layer];
  for (std::size_t i = 0; i < homes.size(); ++i) {
    if (tensors_[layer][i]) homes[i] = TensorHome::kSlot;
  }
  if (homes == plan.homes[layer]) return;
  const std::uint64_t all_bytes = loaded_bytes(own.missing);
  own.missing =
      make_layer_layout(table.layers[layer], table.files, plan.rules, {homes, TensorHome::kResident});
  own.taken_over_bytes = all_bytes - std::min(all_bytes, loaded_bytes(own.missing));
}

/// Each tensor's place in a layout of residents begins a page, which only tied ones share.
void Residents::allocate(const LayerTable& table, const Plan& plan, Device& device, TierBudget& budget,
                         std::uint32_t layer) {
  LayerPlaces& own = layers_[layer];
  const std::vector<TensorSpec>& specs = table.layers[layer].tensors;
  own.addresses.resize(specs.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (plan.homes[layer][i] != TensorHome::kResident) continue;
    std::shared_ptr<Memory>& memory = tensors_[layer][i];
    if (!memory) {
      const std::uint64_t offset = own.missing.tensor_offsets[i];
      const std::uint64_t begin = begin_of_page(offset);
      const auto place = std::ranges::lower_bound(own.places, begin, {}, &Place::offset);
      if (place != own.places.end() && place->offset == begin) {
        memory = tensors_[layer][place->tensor];
      } else {
        const std::uint64_t bytes = begin_of_page(offset + specs[i].bytes + kSlotAlignment - 1) - begin;
        const std::uint64_t taken = allocated_bytes(bytes, plan.rules.allocation_bytes);
        memory = std::make_shared<Memory>(budget.reserve(taken, "residents"), device.allocate(bytes));
        own.places.insert(place, {begin, memory->memory.data(), i});
      }
    }
    const std::uint64_t offset = plan.residents[layer].tensor_offsets[i];
    own.addresses[i] = memory->memory.data() + (offset - begin_of_page(offset));
  }
}

Residents::Shared Residents::hand_over(const Plan& next) {
  for (std::uint32_t layer = 0; layer < tensors_.size(); ++layer) {
    for (std::size_t i = 0; i < tensors_[layer].size(); ++i) {
      if (next.homes[layer][i] != TensorHome::kResident) tensors_[layer][i].reset();
    }
  }
  Shared kept = tensors_;
  for (auto& layer : kept) {
    for (auto& memory : layer) {
      if (memory && !memory->is_there) memory.reset();
    }
  }
  return kept;
}

void Residents::free(std::uint32_t layer) noexcept {
  for (auto& memory : tensors_[layer]) memory.reset();
}

std::uint64_t Residents::bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& layer : tensors_) {
    for (std::size_t i = 0; i < layer.size(); ++i) {
      const bool is_first = std::find(layer.begin(), layer.begin() + static_cast<std::ptrdiff_t>(i),
                                      layer[i]) == layer.begin() + static_cast<std::ptrdiff_t>(i);
      if (layer[i] && is_first) sum += layer[i]->reservation.bytes();
    }
  }
  return sum;
}

std::byte* Residents::target(std::uint32_t layer, std::uint64_t offset) const noexcept {
  const auto behind = std::ranges::upper_bound(layers_[layer].places, offset, {}, &Place::offset);
  return std::prev(behind)->memory + (offset - std::prev(behind)->offset);
}

void Residents::set_there(std::uint32_t layer) noexcept {
  for (auto& memory : tensors_[layer]) {
    if (memory) memory->is_there = true;
  }
}

std::vector<std::span<std::byte>> Residents::memory_to_fill() const {
  std::vector<std::span<std::byte>> all;
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    for (const Place& place : layers_[layer].places) {
      all.emplace_back(place.memory, tensors_[layer][place.tensor]->memory.bytes());
    }
  }
  return all;
}

void Residents::abandon() noexcept {
  for (auto& layer : tensors_) {
    for (auto& memory : layer) {
      if (memory) memory->memory.abandon();
    }
  }
}

}  // namespace tierstream
