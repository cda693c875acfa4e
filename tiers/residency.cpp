#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/residency.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <numeric>
#include <tuple>
#include <utility>

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

/// The layers in an order any beginning of which is spread evenly over them: by the golden ratio's multiples.
std::vector<std::uint32_t> spread_out(std::size_t layers) {
  std::vector<std::pair<double, std::uint32_t>> ranks;
  ranks.reserve(layers);
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    const double turns = (layer + 1) * (std::numbers::phi - 1);
    ranks.emplace_back(turns - std::floor(turns), layer);
  }
  std::ranges::sort(ranks);
  std::vector<std::uint32_t> order(layers);
  std::ranges::transform(ranks, order.begin(), &std::pair<double, std::uint32_t>::second);
  return order;
}

/// The entries of all layers, each at the place that the share of its layer says which it completes; equal
/// ones by their layers, spread out. Counted out by steps of a share: to compare tens of thousands takes
/// several times as long.
class ShareOrder {
 public:
  /// The next layer's entries, of `amount` each.
  template <typename Entry, typename Amount>
  void add_layer(std::span<const Entry> entries, Amount amount) {
    double total = 0;
    for (const Entry& entry : entries) total += static_cast<double>(amount(entry));
    double sum = 0;
    for (const Entry& entry : entries) {
      sum += static_cast<double>(amount(entry));
      shares_.push_back(static_cast<std::uint32_t>(sum / total * kWhole));
    }
    ends_.push_back(static_cast<std::uint32_t>(shares_.size()));
  }

  /// The entries' indices.
  std::vector<std::uint32_t> sorted() const {
    std::vector<std::uint32_t> begins(kWhole + 2);
    for (const std::uint32_t share : shares_) ++begins[share + 1];
    std::partial_sum(begins.begin(), begins.end(), begins.begin());
    std::vector<std::uint32_t> order(shares_.size());
    for (const std::uint32_t layer : spread_out(ends_.size())) {
      for (std::uint32_t i = layer == 0 ? 0 : ends_[layer - 1]; i < ends_[layer]; ++i) {
        order[begins[shares_[i]]++] = i;
      }
    }
    return order;
  }

 private:
  static constexpr std::uint32_t kWhole = 1u << 16;
  std::vector<std::uint32_t> shares_;
  std::vector<std::uint32_t> ends_;  // by layer
};

/// In a file, of whichever backend: its chunks can be kept.
bool lies_in_file(const TensorSpec& tensor) {
  return tensor.bytes != 0 && std::holds_alternative<FileExtent>(tensor.source);
}

bool is_local(const SourceFile& file) { return file.info.is_local_file; }

bool can_be_used_mapped(const FileExtent& extent) { return extent.offset % kLandedTensorAlignment == 0; }

}  // namespace

TensorHomes all_streamed(const LayerTable& table) {
  TensorHomes homes;
  homes.reserve(table.layers.size());
  for (const Layer& layer : table.layers) homes.emplace_back(layer.tensors.size(), TensorHome::kSlot);
  return homes;
}

ResidentOrder::ResidentOrder(const LayerTable& table) {
  std::size_t tensors = 0;
  for (const Layer& layer : table.layers) tensors += layer.tensors.size();
  tensors_.reserve(tensors);  // candidates point into it
  std::vector<ResidentCandidate> all;
  all.reserve(tensors);
  ShareOrder shares;
  std::vector<SourceKey> keys;
  for (std::uint32_t index = 0; index < table.layers.size(); ++index) {
    const std::vector<TensorSpec>& specs = table.layers[index].tensors;
    const std::size_t first_tensor = tensors_.size();
    const std::size_t first = all.size();
    keys.clear();
    for (std::uint32_t i = 0; i < specs.size(); ++i) {
      keys.push_back(key_of(specs[i]));
      if (specs[i].bytes != 0) tensors_.push_back(i);
    }
    const auto order = std::span(tensors_).subspan(first_tensor);
    const auto key = [&](std::uint32_t i) { return keys[i]; };
    // Most come in this order, and to see that is quicker than to sort.
    if (!std::ranges::is_sorted(order, {}, key)) std::ranges::sort(order, {}, key);
    for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
      while (end < order.size() && keys[order[end]] == keys[order[begin]]) ++end;
      all.push_back({index, specs[order[begin]].bytes, order.subspan(begin, end - begin)});
    }
    shares.add_layer(std::span<const ResidentCandidate>(all).subspan(first),
                     [](const ResidentCandidate& candidate) { return candidate.bytes; });
  }
  candidates_.reserve(all.size());
  for (const std::uint32_t i : shares.sorted()) candidates_.push_back(all[i]);
}

ChunkOrder::ChunkOrder(const LayerTable& table, bool in_place, std::uint64_t chunk_bytes)
    : table_(table), in_place_(in_place), none_(table.files, chunk_bytes) {
  ChunkSet seen = none_;
  ShareOrder shares;
  std::vector<std::uint32_t> order;
  for (std::uint32_t layer = 0; layer < table.layers.size(); ++layer) {
    const std::vector<TensorSpec>& tensors = table.layers[layer].tensors;
    order.clear();
    for (auto i = static_cast<std::uint32_t>(tensors.size()); i-- > 0;) {
      if (lies_in_file(tensors[i])) order.push_back(i);
    }
    const auto key = [&](std::uint32_t i) { return key_of(tensors[i]); };
    if (!std::ranges::is_sorted(order, std::ranges::greater{}, key)) {
      std::ranges::sort(order, std::ranges::greater{}, key);
    }
    const std::size_t first = entries_.size();
    for (const std::uint32_t i : order) {
      const ChunkSpan chunks = none_.chunks_of(std::get<FileExtent>(tensors[i].source), tensors[i].bytes);
      if (is_kept_whole(tensors[i])) {
        entries_.push_back({chunks, layer, i});
        continue;
      }
      for (std::uint64_t chunk = chunks.last + 1; chunk-- > chunks.first;) {
        const ChunkSpan one{chunks.file, chunk, chunk};
        if (!seen.contains(one.file, chunk)) entries_.push_back({one, layer, kNoTensor});
      }
      seen.insert(chunks);
    }
    shares.add_layer(std::span<const Entry>(entries_).subspan(first),
                     [](const Entry& entry) { return entry.chunks.count(); });
  }
  order_ = shares.sorted();
}

bool ChunkOrder::is_kept_whole(const TensorSpec& tensor) const {
  return in_place_ && can_be_used_mapped(std::get<FileExtent>(tensor.source));
}

ChunkSet ChunkOrder::choose(const TensorHomes& homes, const Budget& room) const {
  ChunkSet chosen = none_;
  ChunkSet useful = none_;  // of those that are not kept with a whole tensor
  for (std::size_t layer = 0; layer < homes.size(); ++layer) {
    const std::vector<TensorSpec>& tensors = table_.layers[layer].tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const TensorHome home = homes[layer][i];
      if (home == TensorHome::kResident || !lies_in_file(tensors[i])) continue;
      const bool is_whole = is_kept_whole(tensors[i]);
      if (home != TensorHome::kMapped && is_whole) continue;
      const ChunkSpan chunks = none_.chunks_of(std::get<FileExtent>(tensors[i].source), tensors[i].bytes);
      if (home == TensorHome::kMapped) chosen.insert(chunks);
      if (!is_whole) useful.insert(chunks);
    }
  }
  const Budget taken = bytes_by_tier(table_, chosen);
  const bool any_pinned = !std::ranges::all_of(table_.files, is_local);
  std::uint64_t page_cache_left = room.page_cache - std::min(room.page_cache, taken.page_cache);
  std::uint64_t pinned_left = any_pinned ? room.pinned - std::min(room.pinned, taken.pinned) : 0;
  for (const std::uint32_t i : order_) {
    const Entry& entry = entries_[i];
    const bool is_useful = entry.tensor == kNoTensor
                               ? useful.contains(entry.chunks.file, entry.chunks.first)
                               : homes[entry.layer][entry.tensor] != TensorHome::kResident;
    if (!is_useful) continue;
    std::uint64_t& left = table_.files[entry.chunks.file].info.is_local_file ? page_cache_left : pinned_left;
    // What does not fit ends its tier's beginning, even if something smaller behind it would.
    const std::uint64_t missing = chosen.missing_bytes(entry.chunks);
    if (missing <= left) {
      left -= missing;
      chosen.insert(entry.chunks);
    } else {
      left = 0;
    }
    if (page_cache_left == 0 && pinned_left == 0) break;
  }
  return chosen;
}

Budget bytes_by_tier(const LayerTable& table, const ChunkSet& chunks) {
  Budget bytes;
  if (chunks.empty()) return bytes;  // perhaps of no files at all
  for (std::uint32_t file = 0; file < table.files.size(); ++file) {
    (table.files[file].info.is_local_file ? bytes.page_cache : bytes.pinned) += chunks.bytes(file);
  }
  return bytes;
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
