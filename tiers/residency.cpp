#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/residency.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <tuple>

namespace tierstream {
namespace {

/// Where a tensor lies, in an order in which tensors of the same bytes are neighbours.
using SourceKey = std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>;

SourceKey key_of(const TensorSpec& tensor) {
  constexpr auto kMemory = std::numeric_limits<std::uint32_t>::max();
  if (const auto* extent = std::get_if<FileExtent>(&tensor.source)) {
    return {extent->file, extent->offset, tensor.bytes};
  }
  return {kMemory, reinterpret_cast<std::uintptr_t>(std::get<const std::byte*>(tensor.source)), tensor.bytes};
}

/// Neighbours get ranks far apart: any beginning of the order by rank is spread evenly (the golden ratio's
/// multiples).
double spread_rank(std::uint32_t layer) {
  const double turns = (layer + 1) * (std::numbers::phi - 1);
  return turns - std::floor(turns);
}

/// The place of something in an order over all layers: by the share of its layer that it completes.
struct Place {
  double share;
  double rank;
  auto operator<=>(const Place&) const = default;
};

/// In a file whose pages can be kept.
bool lies_in_file(const LayerTable& table, const TensorSpec& tensor) {
  const auto* extent = std::get_if<FileExtent>(&tensor.source);
  return extent != nullptr && tensor.bytes != 0 && table.files[extent->file].info.is_local_file;
}

bool can_be_used_mapped(const FileExtent& extent) { return extent.offset % kLandedTensorAlignment == 0; }

}  // namespace

TensorHomes all_streamed(const LayerTable& table) {
  TensorHomes homes;
  homes.reserve(table.layers.size());
  for (const Layer& layer : table.layers) homes.emplace_back(layer.tensors.size(), TensorHome::kSlot);
  return homes;
}

ResidentOrder::ResidentOrder(const LayerTable& table) {
  struct Entry {
    Place place;
    ResidentCandidate candidate;
  };
  std::vector<Entry> entries;
  tensors_.reserve(table.layers.size());
  std::vector<SourceKey> keys;
  for (std::uint32_t index = 0; index < table.layers.size(); ++index) {
    const std::vector<TensorSpec>& specs = table.layers[index].tensors;
    keys.clear();
    for (const TensorSpec& spec : specs) keys.push_back(key_of(spec));
    std::vector<std::uint32_t>& order = tensors_.emplace_back(specs.size());
    std::iota(order.begin(), order.end(), 0u);
    std::erase_if(order, [&](std::uint32_t i) { return specs[i].bytes == 0; });
    const auto key = [&](std::uint32_t i) { return keys[i]; };
    // Most come in this order, and to see that is quicker than to sort.
    if (!std::ranges::is_sorted(order, {}, key)) std::ranges::sort(order, {}, key);

    const std::size_t first_entry = entries.size();
    std::uint64_t bytes = 0;
    for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
      while (end < order.size() && keys[order[end]] == keys[order[begin]]) ++end;
      const ResidentCandidate candidate{index, specs[order[begin]].bytes,
                                        std::span(order).subspan(begin, end - begin)};
      bytes += candidate.bytes;
      entries.push_back({{static_cast<double>(bytes), spread_rank(index)}, candidate});
    }
    for (std::size_t i = first_entry; i < entries.size(); ++i) {
      entries[i].place.share /= static_cast<double>(bytes);
    }
  }
  std::ranges::stable_sort(entries, {}, &Entry::place);
  candidates_.reserve(entries.size());
  for (const Entry& entry : entries) candidates_.push_back(entry.candidate);
}

ChunkSet choose_chunks(const LayerTable& table, const TensorHomes& homes, std::uint64_t bytes, bool in_place,
                       std::uint64_t chunk_bytes) {
  ChunkSet chosen(table.files, chunk_bytes);
  if (bytes == 0) return chosen;
  struct Entry {
    Place place;
    std::uint32_t file;
    std::uint64_t first;
    std::uint64_t last;      // chunk
    bool is_whole = false;   // a tensor's, kept all or not at all
    bool is_useful = false;  // then; a chunk's own use shows in `useful` at the end
  };
  ChunkSet useful(table.files, chunk_bytes);
  ChunkSet seen(table.files, chunk_bytes);
  std::vector<Entry> entries;
  std::vector<std::uint32_t> order;
  for (std::uint32_t index = 0; index < table.layers.size(); ++index) {
    const std::vector<TensorSpec>& tensors = table.layers[index].tensors;
    order.clear();
    for (auto i = static_cast<std::uint32_t>(tensors.size()); i-- > 0;) {
      if (lies_in_file(table, tensors[i])) order.push_back(i);
    }
    const auto key = [&](std::uint32_t i) { return key_of(tensors[i]); };
    if (!std::ranges::is_sorted(order, std::ranges::greater{}, key)) {
      std::ranges::sort(order, std::ranges::greater{}, key);
    }
    const std::size_t first_entry = entries.size();
    for (const std::uint32_t i : order) {
      const auto& extent = std::get<FileExtent>(tensors[i].source);
      const std::uint64_t first = seen.chunk_of(extent.offset);
      const std::uint64_t last = seen.chunk_of(extent.offset + tensors[i].bytes - 1);
      const bool is_useful = homes[index][i] != TensorHome::kResident;
      if (in_place && can_be_used_mapped(extent)) {
        entries.push_back({{}, extent.file, first, last, true, is_useful});
        continue;
      }
      for (std::uint64_t chunk = last + 1; chunk-- > first;) {
        if (is_useful) useful.insert(extent.file, chunk);
        if (seen.insert(extent.file, chunk)) entries.push_back({{}, extent.file, chunk, chunk});
      }
    }
    const auto own = std::span(entries).subspan(first_entry);
    std::uint64_t total = 0;
    for (Entry& entry : own) {
      total += entry.last - entry.first + 1;
      entry.place = {static_cast<double>(total), spread_rank(index)};
    }
    for (Entry& entry : own) entry.place.share /= static_cast<double>(total);
  }
  std::ranges::stable_sort(entries, {}, &Entry::place);
  for (const Entry& entry : entries) {
    if (!(entry.is_whole ? entry.is_useful : useful.contains(entry.file, entry.first))) continue;
    std::uint64_t more = 0;
    for (std::uint64_t chunk = entry.first; chunk <= entry.last; ++chunk) {
      if (!chosen.contains(entry.file, chunk)) more += chosen.bytes_of(entry.file, chunk);
    }
    if (chosen.bytes() + more > bytes) break;
    for (std::uint64_t chunk = entry.first; chunk <= entry.last; ++chunk) chosen.insert(entry.file, chunk);
  }
  return chosen;
}

void use_where_mapped(const LayerTable& table, const ChunkSet& chunks, TensorHomes& homes) {
  if (chunks.empty()) return;
  for (std::size_t layer = 0; layer < table.layers.size(); ++layer) {
    const std::vector<TensorSpec>& tensors = table.layers[layer].tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const auto* extent = std::get_if<FileExtent>(&tensors[i].source);
      if (extent == nullptr || tensors[i].bytes == 0 || !can_be_used_mapped(*extent)) continue;
      if (homes[layer][i] == TensorHome::kSlot &&
          chunks.covers(extent->file, extent->offset, extent->offset + tensors[i].bytes)) {
        homes[layer][i] = TensorHome::kMapped;
      }
    }
  }
}

}  // namespace tierstream
