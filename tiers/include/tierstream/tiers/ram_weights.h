#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/residency.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tierstream {

/// Memory of whole pages, and the tensors that have a part in it.
struct PageRange {
  std::span<const std::byte> pages;
  std::vector<std::span<const std::byte>> tensors;  ///< by address
};

/// The pages of `tensors`, those joined that share one or follow each other: a page cannot be registered
/// twice. A page of which the tensors have the last or the first part alone is left out: the rest of it is
/// somebody else's, whose copies would fail where they cross the edge of what is registered.
std::vector<PageRange> page_ranges(std::vector<std::span<const std::byte>> tensors);

/// Memory that files are mapped to for this process alone, as some loaders do: registering that would copy
/// the file page by page, which takes minutes.
std::vector<std::span<const std::byte>> private_file_mappings();

/// Streamed weights that lie in RAM, registered for DMA where they lie, as far as the pinned budget goes: in
/// the order in which tensors become resident, so that every layer gets about the same share. What is not
/// registered - for want of budget, refused, or in a private mapping of a file - is copied all the same, more
/// slowly. Threads: one at a time.
class RamWeights {
 public:
  RamWeights() = default;
  /// `homes`: by layer; what has its home in a slot is registered. `table`'s memory outlives this.
  RamWeights(const LayerTable& table, const TensorHomes& homes, Device& device, TierBudget& pinned);

  /// Leaves it all registered for ever: a copy that never ended may still read it.
  void abandon() noexcept;
  /// No copy may cross an edge of what is registered.
  void split_at_edges(std::vector<MemoryCopy>& copies) const;

  std::uint64_t registered_bytes() const noexcept { return registered_bytes_; }
  /// Held of the pinned budget.
  std::uint64_t reserved_bytes() const noexcept;
  /// Why some are not registered; empty when all are.
  const std::string& refusal() const noexcept { return refusal_; }

 private:
  void add(Device& device, const PageRange& range);
  bool try_register(Device& device, std::span<const std::byte> pages);

  std::vector<Reservation> reservations_;
  std::vector<HostRegistration> registrations_;
  std::vector<const std::byte*> edges_;  // ascending
  std::uint64_t registered_bytes_ = 0;
  std::string refusal_;
};

}  // namespace tierstream
