#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/plan.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace tierstream {

/// The tensors that stay on the device, each (with those tied to it) in memory of its own. What the plan
/// of the next budget keeps, too, it takes over where it lies, with its bytes: their memory is shared by all
/// Residents that have it, and freed with the last of them. The bytes are the staging loop's to bring.
///
///   Residents residents(table, plan, device, gpu, before.hand_over(plan));
///   load(residents.missing(layer), [&](offset) { return residents.target(layer, offset); });
///   residents.set_there(layer);
///
/// Threads: one at a time. Errors: those of Device::allocate, and Error kBudgetTooSmall.
class Residents {
 private:
  struct Memory {
    Reservation reservation;
    DeviceMemory memory;
    bool is_there = false;
  };

 public:
  /// By layer and tensor; tied ones have the same, and null stands for what does not stay.
  using Shared = std::vector<std::vector<std::shared_ptr<Memory>>>;

  /// Reserves and allocates what `taken_over` does not have. `device` and `budget` outlive it.
  Residents(const LayerTable& table, const Plan& plan, Device& device, TierBudget& budget,
            Shared taken_over = {});

  /// Frees what `next` does not keep, and returns the rest, as far as its bytes are there.
  Shared hand_over(const Plan& next);
  void free(std::uint32_t layer) noexcept;
  /// Held now, also what others share.
  std::uint64_t bytes() const noexcept;

  /// Brings to the device what of `layer` is not there yet. Stays valid.
  LayerLayout& missing(std::uint32_t layer) noexcept { return layers_[layer].missing; }
  /// Where a transfer of `missing(layer)` puts its bytes.
  std::byte* target(std::uint32_t layer, std::uint64_t offset) const noexcept;
  /// What `layer` need not load: loading all of it takes that many bytes more.
  std::uint64_t taken_over_bytes(std::uint32_t layer) const noexcept {
    return layers_[layer].taken_over_bytes;
  }
  /// All of `layer` has come.
  void set_there(std::uint32_t layer) noexcept;

  /// Of a tensor that stays: the same in all Residents that have it.
  std::byte* address(std::uint32_t layer, std::size_t tensor) const noexcept {
    return layers_[layer].addresses[tensor];
  }
  /// That of the tensors that are not there yet.
  std::vector<std::span<std::byte>> memory_to_fill() const;
  /// Leaves the memory to leak: something may still write to it.
  void abandon() noexcept;

 private:
  struct Place {
    std::uint64_t offset;  ///< in the layout of what is missing
    std::byte* memory;
    std::size_t tensor;  ///< whose it is
  };
  struct LayerPlaces {
    LayerLayout missing;
    std::vector<Place> places;          ///< of what is missing, by offset
    std::vector<std::byte*> addresses;  ///< by tensor
    std::uint64_t taken_over_bytes = 0;
  };
  void find_missing(const LayerTable& table, const Plan& plan, std::uint32_t layer);
  void allocate(const LayerTable& table, const Plan& plan, Device& device, TierBudget& budget,
                std::uint32_t layer);

  Shared tensors_;
  std::vector<LayerPlaces> layers_;
};

}  // namespace tierstream
