#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/chunk_set.h>
#include <tierstream/tiers/residency.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tierstream {

/// Read `bytes` at `offset` of `file` to `target_offset` in a ring block or a slot. Offset, bytes and target
/// follow the file's alignment; the last read of a file may reach past its end.
struct FileRead {
  std::uint32_t file;
  std::uint64_t offset;
  std::uint64_t bytes;
  std::uint64_t target_offset;
};

struct BlockCopy {
  std::uint64_t block_offset;
  std::uint64_t slot_offset;
  std::uint64_t bytes;
};

/// One use of a ring block: where the reads that fill it and the copies that empty it end in their layout's
/// lists. They begin where those of the fill before end.
struct BlockFill {
  std::uint32_t reads_end = 0;
  std::uint32_t copies_end = 0;
};

struct MemoryCopy {
  const std::byte* source;
  std::uint64_t slot_offset;
  std::uint64_t bytes;
};

/// A copy out of the page-cache tier, which cuts it where what is registered as one ends.
struct MappedCopy {
  std::uint32_t file;
  std::uint64_t offset;
  std::uint64_t slot_offset;
  std::uint64_t bytes;
};

/// Where each tensor of (a part of) a layer lies in the memory that it is loaded into - "slot" here, though
/// residents have a place of their own - and every transfer that brings it there. Computed once; a pass only
/// replays it.
struct LayerLayout {
  std::uint64_t slot_bytes = 0;
  std::vector<std::uint64_t> tensor_offsets;  ///< in the slot, one per tensor of the layer
  std::vector<FileRead> landings;             ///< straight from storage into the slot
  std::vector<BlockFill> fills;               ///< through the ring, by these two:
  std::vector<FileRead> block_reads;          ///< from storage into a block, fill by fill
  std::vector<BlockCopy> block_copies;        ///< from there into the slot, fill by fill
  std::vector<MemoryCopy> memory_copies;      ///< from where the bytes lie in host memory
  std::vector<MappedCopy> mapped_copies;      ///< out of the page-cache tier

  std::span<const FileRead> reads_of(std::size_t fill) const {
    const std::uint32_t begin = fill == 0 ? 0 : fills[fill - 1].reads_end;
    return std::span(block_reads).subspan(begin, fills[fill].reads_end - begin);
  }
  std::span<const BlockCopy> copies_of(std::size_t fill) const {
    const std::uint32_t begin = fill == 0 ? 0 : fills[fill - 1].copies_end;
    return std::span(block_copies).subspan(begin, fills[fill].copies_end - begin);
  }

  std::uint64_t disk_bytes() const;    ///< read per load, alignment included
  std::uint64_t ring_bytes() const;    ///< copied per load out of ring blocks
  std::uint64_t memory_bytes() const;  ///< copied per load from where the bytes lie in host memory
  std::uint64_t mapped_bytes() const;  ///< copied per load out of the page-cache tier
};

/// What memory of its own takes from the device (DeviceTraits::allocation_bytes) for `bytes`.
std::uint64_t allocated_bytes(std::uint64_t bytes, std::uint64_t allocation_bytes);

struct LayoutRules {
  std::uint64_t block_bytes = 8u << 20;    ///< of the ring; a multiple of `request_bytes`
  std::uint64_t request_bytes = 1u << 20;  ///< one read; a multiple of every file's alignment
  bool reads_land = false;                 ///< the device takes reads in its slots
  std::uint64_t allocation_bytes = 4096;   ///< DeviceTraits::allocation_bytes
  std::uint64_t merge_gap_bytes = 64u
                                  << 10;  ///< a gap up to this is read and dropped: cheaper than a request
};

/// Tensors that are copied start at multiples of 256 bytes (what kernels may assume of an allocation) ...
inline constexpr std::uint64_t kTensorAlignment = 256;
/// ... tensors whose reads land in the slot keep their place in the file, at multiples of 64 (a cache line).
inline constexpr std::uint64_t kLandedTensorAlignment = 64;
/// Slots and blocks start at multiples of this, which no direct I/O alignment exceeds.
inline constexpr std::uint64_t kSlotAlignment = 4096;

/// Which tensors of a layer a layout is of, and which of their bytes the page-cache tier has.
struct LayerPart {
  std::span<const TensorHome> homes = {};  ///< of the layer's tensors; empty: all are of this part
  TensorHome home = TensorHome::kSlot;     ///< of those that are
  const ChunkSet* cached = nullptr;        ///< null: nothing is

  bool has(std::size_t tensor) const { return homes.empty() || homes[tensor] == home; }
};

/// Lays `part` of `layer` out in a slot. Tensors that are neighbours in the file and keep their alignment
/// travel as one copy; tensors of the same bytes share them. Residents lie apart: each begins a page of its
/// own (kSlotAlignment), so that it can have memory of its own, and takes what that takes; reads that land
/// put it as far behind the page's begin in every layout. Pure.
LayerLayout make_layer_layout(const Layer& layer, std::span<const SourceFile> files, const LayoutRules& rules,
                              const LayerPart& part = {});

}  // namespace tierstream
