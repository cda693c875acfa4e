#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/residency.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <ranges>

namespace tierstream {
namespace {

/// The layers in an order any beginning of which is spread evenly over them: by the golden ratio's multiples.
std::vector<std::uint32_t> spread_out(std::size_t layers) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;  // its fraction, in units of 2^-64
  constexpr std::uint64_t kLayer = std::numeric_limits<std::uint32_t>::max();
  std::vector<std::uint64_t> turns(layers);  // a fraction of one, then the layer
  for (std::uint64_t layer = 0; layer < layers; ++layer) {
    turns[layer] = (((layer + 1) * kGolden) & ~kLayer) | layer;
  }
  std::ranges::sort(turns);
  std::vector<std::uint32_t> order(layers);
  std::ranges::transform(turns, order.begin(),
                         [](std::uint64_t turn) { return static_cast<std::uint32_t>(turn & kLayer); });
  return order;
}

/// The entries of all layers, each at the place that the share of its layer says which it completes; equal
/// ones by their layers, spread out. Counted out by steps of a share: to compare tens of thousands takes
/// several times as long.
class ShareOrder {
 public:
  explicit ShareOrder(std::size_t entries) { shares_.reserve(entries); }

  /// The next entry of a layer.
  void add(std::uint64_t amount) {
    sum_ += static_cast<double>(amount);
    sums_.push_back(sum_);
  }
  void end_layer() {
    for (const double sum : sums_) shares_.push_back(static_cast<std::uint32_t>(sum / sum_ * kWhole));
    ends_.push_back(static_cast<std::uint32_t>(shares_.size()));
    sums_.clear();
    sum_ = 0;
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
  double sum_ = 0;            // of the layer under way
  std::vector<double> sums_;  // up to each of its entries
  std::vector<std::uint32_t> shares_;
  std::vector<std::uint32_t> ends_;  // by layer
};

bool is_local(const SourceFile& file) { return file.info.is_local_file; }

bool can_be_used_mapped(const SortedTensor& tensor) {
  return !tensor.in_memory() && tensor.offset % kLandedTensorAlignment == 0;
}

}  // namespace

TensorHomes all_streamed(const LayerTable& table) {
  TensorHomes homes;
  homes.reserve(table.layers.size());
  for (const Layer& layer : table.layers) homes.emplace_back(layer.tensors.size(), TensorHome::kSlot);
  return homes;
}

std::vector<ResidentCandidate> resident_order(const SortedTensors& tensors) {
  std::vector<ResidentCandidate> all;
  all.reserve(tensors.size());
  ShareOrder shares(tensors.size());
  for (std::size_t layer = 0; layer < tensors.layers(); ++layer) {
    const std::span<const SortedTensor> sorted = tensors.of(layer);
    for (std::size_t begin = 0, end = 0; begin < sorted.size(); begin = end) {
      while (end < sorted.size() && sorted[end].is_tied_to(sorted[begin])) ++end;
      all.push_back(sorted.subspan(begin, end - begin));
      shares.add(sorted[begin].bytes);
    }
    shares.end_layer();
  }
  std::vector<ResidentCandidate> candidates;
  candidates.reserve(all.size());
  for (const std::uint32_t i : shares.sorted()) candidates.push_back(all[i]);
  return candidates;
}

bool ChunkOrder::is_kept_whole(const SortedTensor& tensor) const {
  return in_place_ && can_be_used_mapped(tensor);
}

ChunkSpan ChunkOrder::chunks_of(const Entry& entry) const {
  const SortedTensor& tensor = *entry.tensor;
  if (is_kept_whole(tensor)) return none_.chunks_of(tensor.extent(), tensor.bytes);
  return {tensor.file, entry.chunk, entry.chunk};
}

ChunkOrder::ChunkOrder(const LayerTable& table, const SortedTensors& tensors, bool in_place,
                       std::uint64_t chunk_bytes)
    : table_(table), tensors_(tensors), in_place_(in_place), none_(table.files, chunk_bytes) {
  ChunkSet seen = none_;
  entries_.reserve(tensors.size());
  ShareOrder shares(tensors.size());
  for (std::size_t layer = 0; layer < tensors.layers(); ++layer) {
    for (const SortedTensor& tensor : std::views::reverse(tensors.of(layer))) {
      if (tensor.in_memory()) continue;
      const ChunkSpan chunks = none_.chunks_of(tensor.extent(), tensor.bytes);
      if (is_kept_whole(tensor)) {
        entries_.push_back({&tensor, chunks.first});
        shares.add(chunks.count());
        continue;
      }
      for (std::uint64_t chunk = chunks.last + 1; chunk-- > chunks.first;) {
        if (seen.contains(chunks.file, chunk)) continue;
        entries_.push_back({&tensor, chunk});
        shares.add(1);
      }
      seen.insert(chunks);
    }
    shares.end_layer();
  }
  order_ = shares.sorted();
}

ChunkSet ChunkOrder::choose(const TensorHomes& homes, const Budget& room) const {
  ChunkSet chosen = none_;
  ChunkSet useful = none_;  // of those that are not kept with a whole tensor
  const auto home_of = [&](const SortedTensor& tensor) { return homes[tensor.layer][tensor.tensor]; };
  for (const SortedTensor& tensor : tensors_.all()) {
    const TensorHome home = home_of(tensor);
    if (home == TensorHome::kResident || tensor.in_memory()) continue;
    const bool is_whole = is_kept_whole(tensor);
    if (home != TensorHome::kMapped && is_whole) continue;
    const ChunkSpan chunks = none_.chunks_of(tensor.extent(), tensor.bytes);
    if (home == TensorHome::kMapped) chosen.insert(chunks);
    if (!is_whole) useful.insert(chunks);
  }
  const Budget taken = bytes_by_tier(table_, chosen);
  const bool any_pinned = !std::ranges::all_of(table_.files, is_local);
  std::uint64_t page_cache_left = room.page_cache - std::min(room.page_cache, taken.page_cache);
  std::uint64_t pinned_left = any_pinned ? room.pinned - std::min(room.pinned, taken.pinned) : 0;
  for (const std::uint32_t i : order_) {
    const SortedTensor& tensor = *entries_[i].tensor;
    const bool is_useful = is_kept_whole(tensor) ? home_of(tensor) == TensorHome::kSlot
                                                 : useful.contains(tensor.file, entries_[i].chunk);
    if (!is_useful) continue;
    const ChunkSpan chunks = chunks_of(entries_[i]);
    std::uint64_t& left = is_local(table_.files[chunks.file]) ? page_cache_left : pinned_left;
    // What does not fit ends its tier's beginning, even if something smaller behind it would.
    const std::uint64_t missing = chosen.missing_bytes(chunks);
    if (missing <= left) {
      left -= missing;
      chosen.insert(chunks);
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
    (is_local(table.files[file]) ? bytes.page_cache : bytes.pinned) += chunks.bytes(file);
  }
  return bytes;
}

void use_where_mapped(const SortedTensors& tensors, const ChunkSet& chunks, TensorHomes& homes) {
  if (chunks.empty()) return;
  for (const SortedTensor& tensor : tensors.all()) {
    TensorHome& home = homes[tensor.layer][tensor.tensor];
    if (home == TensorHome::kSlot && can_be_used_mapped(tensor) &&
        chunks.covers(tensor.file, tensor.offset, tensor.end())) {
      home = TensorHome::kMapped;
    }
  }
}

}  // namespace tierstream
