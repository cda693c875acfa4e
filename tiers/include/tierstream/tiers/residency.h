#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/chunk_set.h>
#include <tierstream/tiers/sorted_tensors.h>

#include <cstdint>
#include <span>
#include <vector>

namespace tierstream {

/// Where a tensor is while its layer is leased. Each has one home.
enum class TensorHome : std::uint8_t {
  kSlot,      ///< in its layer's slot, loaded whenever the layer comes to one: streamed
  kResident,  ///< in device memory, for good
  kMapped,    ///< where the page-cache tier maps it; on devices that are the host
};

/// The homes of each layer's tensors, in the table's order.
using TensorHomes = std::vector<std::vector<TensorHome>>;

TensorHomes all_streamed(const LayerTable& table);

/// A tensor that a layer loads, and those tied to it: neighbours in the order of SortedTensors.
using ResidentCandidate = std::span<const SortedTensor>;

/// In the order in which tensors become resident on the device: whole ones, so that every layer has given up
/// about the same share of its bytes at each point, and those layers that are ahead of others lie evenly
/// spread. A plan takes a beginning of it, so plans for larger budgets keep all that smaller ones keep.
/// Pure. The tensors, not their homes, decide.
std::vector<ResidentCandidate> resident_order(const SortedTensors& tensors);

/// The order in which chunks are kept in host memory: as even over the layers as that of the tensors, but
/// from the end of each layer on, where tensors become resident last. Pure. `table` and `tensors` outlive it.
class ChunkOrder {
 public:
  /// `in_place`: tensors that can be used where they are mapped are kept whole or not at all, because a part
  /// would have to be copied that could have been read to its place.
  ChunkOrder(const LayerTable& table, const SortedTensors& tensors, bool in_place,
             std::uint64_t chunk_bytes = kChunkBytes);

  /// Of files in the file system as long a beginning as `room.page_cache` holds, of those of other backends
  /// as long a one as `room.pinned` does; before these the chunks of tensors that are mapped already, which
  /// are kept whatever `room` says. Chunks whose bytes are all resident on the device are passed over.
  ChunkSet choose(const TensorHomes& homes, const Budget& room) const;

 private:
  /// A chunk of a tensor, or all that it touches where it is kept whole.
  struct Entry {
    const SortedTensor* tensor;
    std::uint64_t chunk;
  };
  bool is_kept_whole(const SortedTensor& tensor) const;
  ChunkSpan chunks_of(const Entry& entry) const;

  const LayerTable& table_;
  const SortedTensors& tensors_;
  const bool in_place_;
  const ChunkSet none_;
  std::vector<Entry> entries_;
  std::vector<std::uint32_t> order_;  // of these
};

/// What `chunks` take of each tier: of the page cache for files in the file system, else pinned memory.
Budget bytes_by_tier(const LayerTable& table, const ChunkSet& chunks);

/// Gives the tensors that `chunks` covers and that may be used where they are mapped that home.
void use_where_mapped(const SortedTensors& tensors, const ChunkSet& chunks, TensorHomes& homes);

}  // namespace tierstream
