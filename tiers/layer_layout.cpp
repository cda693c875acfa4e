#include <tierstream/tiers/layer_layout.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

namespace tierstream {
namespace {

constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) {
  return value / alignment * alignment;
}
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
  return align_down(value + alignment - 1, alignment);
}

/// File bytes of one tensor (or of neighbours joined), and where they go in the slot.
struct Piece {
  std::uint32_t file;
  std::uint64_t offset;
  std::uint64_t bytes;
  std::uint64_t slot_offset;

  std::uint64_t end() const { return offset + bytes; }
};

/// File bytes of one tensor, in an order in which tied tensors and those that follow each other are
/// neighbours.
struct Source {
  std::uint32_t file;
  std::uint64_t offset;
  std::uint64_t bytes;
  std::size_t tensor;

  std::uint64_t end() const { return offset + bytes; }
  bool is_same(const Source& before) const {
    return file == before.file && offset == before.offset && bytes == before.bytes;
  }
  bool follows(const Source& before) const { return file == before.file && offset == before.end(); }
  bool keeps_alignment(const Source& first) const { return (offset - first.offset) % kTensorAlignment == 0; }
  auto operator<=>(const Source&) const = default;
};

std::uint64_t direct_alignment(const SourceFile& file) {
  return std::max(file.info.offset_alignment, file.info.memory_alignment);
}

bool can_land(const FileExtent& extent, const SourceFile& file, const LayoutRules& rules) {
  return rules.reads_land && extent.offset % kLandedTensorAlignment == 0 &&
         direct_alignment(file) <= kSlotAlignment;
}

/// Builds one layout: first gives every tensor its place, then cuts the transfers.
class LayoutBuilder {
 public:
  LayoutBuilder(const Layer& layer, std::span<const SourceFile> files, const LayoutRules& rules,
                const LayerPart& part)
      : layer_(layer),
        files_(files),
        rules_(rules),
        part_(part),
        is_apart_(part.home == TensorHome::kResident),
        alignment_(is_apart_ ? kSlotAlignment : kTensorAlignment) {
    layout_.tensor_offsets.resize(layer.tensors.size());
  }

  std::uint64_t place() {
    place_file_tensors();
    place_memory_tensors();
    layout_.slot_bytes = align_up(cursor_, kSlotAlignment);
    return layout_.slot_bytes;
  }

  LayerLayout build() {
    place();
    std::uint64_t landing_bytes = 0;
    for (const Piece& span : landing_spans_) landing_bytes += span.bytes;
    layout_.landings.reserve(landing_bytes / rules_.request_bytes + landing_spans_.size());
    for (const Piece& span : landing_spans_) {
      append_reads(layout_.landings, span.file, span.offset, span.end(), span.slot_offset);
    }
    take_out_cached();
    cut_fills();
    return std::move(layout_);
  }

 private:
  bool is_of_part(std::size_t index) const {
    return layer_.tensors[index].bytes != 0 && (part_.homes.empty() || part_.homes[index] == part_.home);
  }
  bool can_land(const Source& source) const {
    return tierstream::can_land({source.file, source.offset}, files_[source.file], rules_);
  }

  void place_file_tensors() {
    std::vector<Source> sources;
    sources.reserve(layer_.tensors.size());
    for (std::size_t i = 0; i < layer_.tensors.size(); ++i) {
      const auto* extent = std::get_if<FileExtent>(&layer_.tensors[i].source);
      if (extent != nullptr && is_of_part(i)) {
        sources.push_back({extent->file, extent->offset, layer_.tensors[i].bytes, i});
      }
    }
    // Most come in this order, and to see that is quicker than to sort.
    if (!std::ranges::is_sorted(sources)) std::ranges::sort(sources);
    pieces_.reserve(sources.size());
    for (std::size_t begin = 0; begin < sources.size();) {
      std::size_t end = begin + 1;
      const bool lands = can_land(sources[begin]);
      while (end < sources.size() && can_land(sources[end]) == lands &&
             (sources[end].is_same(sources[end - 1]) ||
              (!is_apart_ && sources[end].follows(sources[end - 1]) &&
               (lands || sources[end].keeps_alignment(sources[begin]))))) {
        ++end;
      }
      const auto run = std::span(sources).subspan(begin, end - begin);
      lands ? land(run) : copy_through_ring(run);
      begin = end;
    }
  }

  /// The run's aligned span is read into the slot as it stands in the file; nothing else lies in its margins.
  void land(std::span<const Source> run) {
    const std::uint64_t alignment = direct_alignment(files_[run.front().file]);
    const std::uint64_t begin = align_down(run.front().offset, alignment);
    const std::uint64_t end = align_up(run.back().end(), alignment);
    // At least the alignment of copied tensors, so that a run of them can follow; the span keeps its place
    // relative to the file's alignment only if it starts at a multiple of it.
    const std::uint64_t base = align_up(cursor_, std::max(alignment, alignment_));
    for (const Source& source : run) layout_.tensor_offsets[source.tensor] = base + (source.offset - begin);
    landing_spans_.push_back({run.front().file, begin, end - begin, base});
    take(base, end - begin);
  }

  void copy_through_ring(std::span<const Source> run) {
    const Source& first = run.front();
    const std::uint64_t base = align_up(cursor_, alignment_);
    for (const Source& source : run)
      layout_.tensor_offsets[source.tensor] = base + (source.offset - first.offset);
    const std::uint64_t bytes = run.back().end() - first.offset;
    pieces_.push_back({first.file, first.offset, bytes, base});
    take(base, bytes);
  }

  void place_memory_tensors() {
    std::map<std::pair<const std::byte*, std::uint64_t>, std::uint64_t> placed;  // tied tensors share
    for (std::size_t i = 0; i < layer_.tensors.size(); ++i) {
      const auto* source = std::get_if<const std::byte*>(&layer_.tensors[i].source);
      if (source == nullptr || !is_of_part(i)) continue;
      const std::uint64_t base = align_up(cursor_, alignment_);
      const auto [place, is_new] = placed.try_emplace({*source, layer_.tensors[i].bytes}, base);
      layout_.tensor_offsets[i] = place->second;
      if (!is_new) continue;
      layout_.memory_copies.push_back({*source, base, layer_.tensors[i].bytes});
      take(base, layer_.tensors[i].bytes);
    }
  }

  void take(std::uint64_t base, std::uint64_t bytes) {
    cursor_ = base + (is_apart_ ? allocated_bytes(bytes, rules_.allocation_bytes) : bytes);
  }

  /// Chunks follow every file's alignment, so reads may begin and end at their edges.
  void take_out_cached() {
    if (part_.cached == nullptr) return;
    const ChunkSet& cached = *part_.cached;
    std::vector<Piece> rest;
    rest.reserve(pieces_.size());
    for (const Piece& piece : pieces_) {
      for (std::uint64_t begin = piece.offset, end = 0; begin < piece.end(); begin = end) {
        end = cached.stretch_end(piece.file, begin, piece.end());
        const Piece stretch{piece.file, begin, end - begin, piece.slot_offset + (begin - piece.offset)};
        if (cached.contains(piece.file, cached.chunk_of(begin))) {
          layout_.mapped_copies.push_back({stretch.file, begin, stretch.slot_offset, stretch.bytes});
        } else {
          rest.push_back(stretch);
        }
      }
    }
    pieces_ = std::move(rest);
  }

  void append_reads(std::vector<FileRead>& reads, std::uint32_t file, std::uint64_t begin, std::uint64_t end,
                    std::uint64_t target) const {
    while (begin < end) {
      const std::uint64_t bytes = std::min(rules_.request_bytes, end - begin);
      reads.push_back({file, begin, bytes, target});
      begin += bytes;
      target += bytes;
    }
  }

  /// Walks the pieces in file order, joins those whose gap is cheaper to read than to skip, and packs the
  /// joined spans into blocks one behind the other.
  void cut_fills() {
    std::uint64_t piece_bytes = 0;
    for (const Piece& piece : pieces_) piece_bytes += piece.bytes;
    // And a few more where gaps are read.
    layout_.fills.reserve(piece_bytes / rules_.block_bytes + 1);
    layout_.block_reads.reserve(piece_bytes / rules_.request_bytes + pieces_.size());
    layout_.block_copies.reserve(piece_bytes / rules_.block_bytes + pieces_.size());
    std::uint64_t block_used = rules_.block_bytes;  // "full": the first span opens a block
    for (std::size_t first = 0; first < pieces_.size();) {
      std::size_t last = first;
      while (last + 1 < pieces_.size() && pieces_[last + 1].file == pieces_[first].file &&
             pieces_[last + 1].offset <= pieces_[last].end() + rules_.merge_gap_bytes) {
        ++last;
      }
      const std::uint32_t file = pieces_[first].file;
      const std::uint64_t alignment = direct_alignment(files_[file]);
      std::uint64_t begin = align_down(pieces_[first].offset, alignment);
      std::uint64_t furthest = 0;  // overlapping tensors: the last piece need not end last
      for (std::size_t i = first; i <= last; ++i) furthest = std::max(furthest, pieces_[i].end());
      const std::uint64_t end = align_up(furthest, alignment);
      while (begin < end) {
        block_used = align_up(block_used, alignment);
        if (block_used >= rules_.block_bytes) {
          end_fill();
          block_used = 0;
        }
        const std::uint64_t bytes = std::min(rules_.block_bytes - block_used, end - begin);
        append_reads(layout_.block_reads, file, begin, begin + bytes, block_used);
        for (std::size_t i = first; i <= last; ++i) copy_part(pieces_[i], begin, bytes, block_used);
        begin += bytes;
        block_used += bytes;
      }
      first = last + 1;
    }
    end_fill();
  }

  /// Ends the fill that the reads and copies behind the last one's are of.
  void end_fill() {
    const BlockFill begin = layout_.fills.empty() ? BlockFill{} : layout_.fills.back();
    const auto copies = std::span(layout_.block_copies).subspan(begin.copies_end);
    // A joined gap can make up a whole read: nobody needs that one.
    const auto is_for_nobody = [&](const FileRead& read) {
      return std::ranges::none_of(copies, [&](const BlockCopy& copy) {
        return copy.block_offset < read.target_offset + read.bytes &&
               read.target_offset < copy.block_offset + copy.bytes;
      });
    };
    std::vector<FileRead>& reads = layout_.block_reads;
    reads.erase(std::remove_if(reads.begin() + begin.reads_end, reads.end(), is_for_nobody), reads.end());
    if (reads.size() == begin.reads_end) return;
    layout_.fills.push_back(
        {static_cast<std::uint32_t>(reads.size()), static_cast<std::uint32_t>(layout_.block_copies.size())});
  }

  /// Adds the part of `piece` that lies in the file bytes [begin, begin + bytes), read to `block_offset`.
  void copy_part(const Piece& piece, std::uint64_t begin, std::uint64_t bytes, std::uint64_t block_offset) {
    const std::uint64_t from = std::max(piece.offset, begin);
    const std::uint64_t to = std::min(piece.end(), begin + bytes);
    if (from >= to) return;
    layout_.block_copies.push_back(
        {block_offset + (from - begin), piece.slot_offset + (from - piece.offset), to - from});
  }

  const Layer& layer_;
  std::span<const SourceFile> files_;
  const LayoutRules& rules_;
  const LayerPart& part_;
  const bool is_apart_;
  const std::uint64_t alignment_;  // of what is copied
  LayerLayout layout_;
  std::vector<Piece> landing_spans_;
  std::vector<Piece> pieces_;
  std::uint64_t cursor_ = 0;
};

}  // namespace

std::uint64_t LayerLayout::disk_bytes() const {
  const auto add = [](std::uint64_t sum, const FileRead& read) { return sum + read.bytes; };
  const std::uint64_t sum = std::accumulate(landings.begin(), landings.end(), std::uint64_t{0}, add);
  return std::accumulate(block_reads.begin(), block_reads.end(), sum, add);
}

std::uint64_t LayerLayout::ring_bytes() const {
  std::uint64_t sum = 0;
  for (const BlockCopy& copy : block_copies) sum += copy.bytes;
  return sum;
}

std::uint64_t LayerLayout::memory_bytes() const {
  std::uint64_t sum = 0;
  for (const MemoryCopy& copy : memory_copies) sum += copy.bytes;
  return sum;
}

std::uint64_t LayerLayout::mapped_bytes() const {
  std::uint64_t sum = 0;
  for (const MappedCopy& copy : mapped_copies) sum += copy.bytes;
  return sum;
}

std::uint64_t allocated_bytes(std::uint64_t bytes, std::uint64_t allocation_bytes) {
  return align_up(bytes, bytes <= allocation_bytes / 2 ? kSlotAlignment : allocation_bytes);
}

LayerLayout make_layer_layout(const Layer& layer, std::span<const SourceFile> files, const LayoutRules& rules,
                              const LayerPart& part) {
  return LayoutBuilder(layer, files, rules, part).build();
}

std::uint64_t laid_out_bytes(const Layer& layer, std::span<const SourceFile> files, const LayoutRules& rules,
                             const LayerPart& part) {
  return LayoutBuilder(layer, files, rules, part).place();
}

std::uint64_t resident_tensor_bytes(const TensorSpec& tensor, std::span<const SourceFile> files,
                                    const LayoutRules& rules) {
  const auto* extent = std::get_if<FileExtent>(&tensor.source);
  if (tensor.bytes == 0) return 0;
  if (extent == nullptr || !can_land(*extent, files[extent->file], rules)) {
    return allocated_bytes(tensor.bytes, rules.allocation_bytes);
  }
  const std::uint64_t alignment = direct_alignment(files[extent->file]);
  const std::uint64_t begin = align_down(extent->offset, alignment);
  return allocated_bytes(align_up(extent->offset + tensor.bytes, alignment) - begin, rules.allocation_bytes);
}

}  // namespace tierstream
