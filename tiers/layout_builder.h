#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/sorted_tensors.h>

#include <cstdint>
#include <span>
#include <vector>

namespace tierstream {

/// Makes layouts by the same rules, one after the other in the same memory: first gives every tensor its
/// place, then cuts the transfers.
class LayoutBuilder {
 public:
  /// Both outlive it.
  LayoutBuilder(std::span<const SourceFile> files, const LayoutRules& rules) : files_(files), rules_(rules) {}

  /// `tensors`: all that `layer` has.
  LayerLayout build(const Layer& layer, std::span<const SortedTensor> tensors, const LayerPart& part);
  /// `slot_bytes` of that layout, without its transfers.
  std::uint64_t place(const Layer& layer, std::span<const SortedTensor> tensors, const LayerPart& part);
  /// What `tensor` takes as a resident. A layout of residents takes the sum of these, tied ones once.
  std::uint64_t resident_bytes(const SortedTensor& tensor) const;

 private:
  /// File bytes of one tensor (or of neighbours joined), and where they go in the slot.
  struct Piece {
    std::uint32_t file;
    std::uint64_t offset;
    std::uint64_t bytes;
    std::uint64_t slot_offset;

    std::uint64_t end() const { return offset + bytes; }
  };

  bool lands(const SortedTensor& tensor) const;
  std::uint64_t tensor_alignment() const;
  void place_in_files(std::span<const SortedTensor> tensors, const LayerPart& part);
  void place_in_memory(std::span<const SortedTensor> tensors, const LayerPart& part);
  void take(std::uint64_t base, std::uint64_t bytes);
  void take_out_cached(const ChunkSet& cached);
  void cut_fills();
  void end_fill();
  void add_copies(std::span<const Piece> pieces, std::uint64_t begin, std::uint64_t end,
                  std::uint64_t block_offset);

  std::span<const SourceFile> files_;
  const LayoutRules& rules_;
  bool is_apart_ = false;  // of the layout under way, like all that follows
  std::uint64_t cursor_ = 0;
  LayerLayout layout_;
  std::vector<Piece> landing_spans_;
  std::vector<Piece> pieces_;
  std::vector<Piece> rest_;
};

}  // namespace tierstream
