#include "layout_builder.h"

#include <algorithm>
#include <utility>

namespace tierstream {
namespace {

/// `alignment`: a power of two, as all of them are.
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) {
  return value & ~(alignment - 1);
}
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
  return align_down(value + alignment - 1, alignment);
}

std::uint64_t direct_alignment(const SourceFile& file) {
  return std::max(file.info.offset_alignment, file.info.memory_alignment);
}

}  // namespace

bool LayoutBuilder::lands(const SortedTensor& tensor) const {
  return rules_.reads_land && !tensor.in_memory() && tensor.offset % kLandedTensorAlignment == 0 &&
         direct_alignment(files_[tensor.file]) <= kSlotAlignment;
}

std::uint64_t LayoutBuilder::tensor_alignment() const {
  return is_apart_ ? kSlotAlignment : kTensorAlignment;
}

void LayoutBuilder::take(std::uint64_t base, std::uint64_t bytes) {
  cursor_ = base + (is_apart_ ? allocated_bytes(bytes, rules_.allocation_bytes) : bytes);
}

std::uint64_t LayoutBuilder::resident_bytes(const SortedTensor& tensor) const {
  const std::uint64_t alignment = lands(tensor) ? direct_alignment(files_[tensor.file]) : 1;
  return allocated_bytes(align_up(tensor.end(), alignment) - align_down(tensor.offset, alignment),
                         rules_.allocation_bytes);
}

/// A copy is returned: it takes no more memory than it needs, and the original's serves the next layout.
LayerLayout LayoutBuilder::build(const Layer& layer, std::span<const SortedTensor> tensors,
                                 const LayerPart& part) {
  place(layer, tensors, part);
  layout_.landings.clear();
  layout_.fills.clear();
  layout_.block_reads.clear();
  layout_.block_copies.clear();
  layout_.mapped_copies.clear();
  for (const Piece& span : landing_spans_) {
    for (std::uint64_t done = 0, bytes = 0; done < span.bytes; done += bytes) {
      bytes = std::min(rules_.request_bytes, span.bytes - done);
      layout_.landings.push_back({span.file, span.offset + done, bytes, span.slot_offset + done});
    }
  }
  if (part.cached != nullptr) take_out_cached(*part.cached);
  cut_fills();
  return layout_;
}

std::uint64_t LayoutBuilder::place(const Layer& layer, std::span<const SortedTensor> tensors,
                                   const LayerPart& part) {
  is_apart_ = part.home == TensorHome::kResident;
  cursor_ = 0;
  landing_spans_.clear();
  pieces_.clear();
  layout_.memory_copies.clear();
  layout_.tensor_offsets.assign(layer.tensors.size(), 0);
  std::size_t in_files = tensors.size();
  while (in_files != 0 && tensors[in_files - 1].in_memory()) --in_files;
  place_in_files(tensors.first(in_files), part);
  place_in_memory(tensors.subspan(in_files), part);
  layout_.slot_bytes = align_up(cursor_, kSlotAlignment);
  return layout_.slot_bytes;
}

/// Run by run of tied tensors and neighbours. One that lands is read into the slot as it stands in the file,
/// its ends aligned; nothing else lies in these margins.
void LayoutBuilder::place_in_files(std::span<const SortedTensor> tensors, const LayerPart& part) {
  const auto next_of_part = [&](std::size_t i) {
    while (i < tensors.size() && !part.has(tensors[i].tensor)) ++i;
    return i;
  };
  for (std::size_t next = next_of_part(0); next < tensors.size();) {
    const SortedTensor& first = tensors[next];
    const bool run_lands = lands(first);
    const std::uint64_t alignment = run_lands ? direct_alignment(files_[first.file]) : 1;
    const std::uint64_t begin = align_down(first.offset, alignment);
    // At least the alignment of copied tensors, so that a run of them can follow; what lands keeps its place
    // relative to the file's alignment only if it starts at a multiple of it.
    const std::uint64_t base = align_up(cursor_, std::max(alignment, tensor_alignment()));
    const SortedTensor* last = nullptr;
    const auto joins = [&](const SortedTensor& tensor) {
      if (tensor.is_tied_to(*last)) return true;
      return !is_apart_ && tensor.follows(*last) && lands(tensor) == run_lands &&
             (run_lands || (tensor.offset - first.offset) % kTensorAlignment == 0);
    };
    do {
      last = &tensors[next];
      layout_.tensor_offsets[last->tensor] = base + (last->offset - begin);
      next = next_of_part(next + 1);
    } while (next < tensors.size() && joins(tensors[next]));
    const std::uint64_t bytes = align_up(last->end(), alignment) - begin;
    (run_lands ? landing_spans_ : pieces_).push_back({first.file, begin, bytes, base});
    take(base, bytes);
  }
}

/// In the layer's order: addresses differ from run to run.
void LayoutBuilder::place_in_memory(std::span<const SortedTensor> tensors, const LayerPart& part) {
  std::vector<std::span<const SortedTensor>> tied;
  for (const SortedTensor& tensor : tensors) {
    if (!part.has(tensor.tensor)) continue;
    if (tied.empty() || !tensor.is_tied_to(tied.back().front())) tied.emplace_back(&tensor, 1);
    tied.back() = {tied.back().data(), &tensor + 1};
  }
  std::ranges::sort(tied, {}, [](std::span<const SortedTensor> same) { return same.front().tensor; });
  for (const std::span<const SortedTensor> same : tied) {
    const std::uint64_t base = align_up(cursor_, tensor_alignment());
    for (const SortedTensor& tensor : same) layout_.tensor_offsets[tensor.tensor] = base;
    layout_.memory_copies.push_back({same.front().address(), base, same.front().bytes});
    take(base, same.front().bytes);
  }
}

/// Chunks follow every file's alignment, so reads may begin and end at their edges.
void LayoutBuilder::take_out_cached(const ChunkSet& cached) {
  rest_.clear();
  for (const Piece& piece : pieces_) {
    for (std::uint64_t begin = piece.offset, end = 0; begin < piece.end(); begin = end) {
      end = cached.stretch_end(piece.file, begin, piece.end());
      const std::uint64_t slot_offset = piece.slot_offset + (begin - piece.offset);
      if (cached.contains(piece.file, cached.chunk_of(begin))) {
        layout_.mapped_copies.push_back({piece.file, begin, slot_offset, end - begin});
      } else {
        rest_.push_back({piece.file, begin, end - begin, slot_offset});
      }
    }
  }
  std::swap(pieces_, rest_);
}

/// Walks the pieces in file order, joins those whose gap is cheaper to read than to skip, and packs the
/// joined spans into blocks one behind the other.
void LayoutBuilder::cut_fills() {
  std::uint64_t block_used = rules_.block_bytes;  // "full": the first span opens a block
  for (std::size_t first = 0, next = 0; first < pieces_.size(); first = next) {
    const std::uint32_t file = pieces_[first].file;
    const std::uint64_t alignment = direct_alignment(files_[file]);
    std::uint64_t begin = align_down(pieces_[first].offset, alignment);
    std::uint64_t end = 0;  // overlapping tensors: the last piece need not end last
    do {
      end = std::max(end, align_up(pieces_[next].end(), alignment));
      ++next;
    } while (next < pieces_.size() && pieces_[next].file == file &&
             pieces_[next].offset <= pieces_[next - 1].end() + rules_.merge_gap_bytes);
    auto joined = std::span<const Piece>(pieces_).subspan(first, next - first);
    while (begin < end) {
      block_used = align_up(block_used, alignment);
      if (block_used >= rules_.block_bytes) {
        end_fill();
        block_used = 0;
      }
      const std::uint64_t block_end = begin + std::min(rules_.block_bytes - block_used, end - begin);
      add_copies(joined, begin, block_end, block_used);
      while (begin < block_end) {
        const std::uint64_t bytes = std::min(rules_.request_bytes, block_end - begin);
        while (joined.front().end() <= begin) joined = joined.subspan(1);
        // A joined gap can make up a whole read: nobody needs that one.
        if (joined.front().offset < begin + bytes) {
          layout_.block_reads.push_back({file, begin, bytes, block_used});
        }
        begin += bytes;
        block_used += bytes;
      }
    }
  }
  end_fill();
}

/// Ends the fill that the reads and copies behind the last one's are of.
void LayoutBuilder::end_fill() {
  const auto reads = static_cast<std::uint32_t>(layout_.block_reads.size());
  const auto copies = static_cast<std::uint32_t>(layout_.block_copies.size());
  if (reads != (layout_.fills.empty() ? 0 : layout_.fills.back().reads_end)) {
    layout_.fills.push_back({reads, copies});
  }
}

/// Of the parts of `pieces` that lie in the file bytes [begin, end), read to `block_offset`.
void LayoutBuilder::add_copies(std::span<const Piece> pieces, std::uint64_t begin, std::uint64_t end,
                               std::uint64_t block_offset) {
  for (const Piece& piece : pieces) {
    if (piece.offset >= end) break;
    const std::uint64_t from = std::max(piece.offset, begin);
    const std::uint64_t to = std::min(piece.end(), end);
    if (from >= to) continue;
    layout_.block_copies.push_back(
        {block_offset + (from - begin), piece.slot_offset + (from - piece.offset), to - from});
  }
}

}  // namespace tierstream
