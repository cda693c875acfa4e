#include <tierstream/tiers/sorted_tensors.h>

#include <algorithm>

namespace tierstream {

SortedTensors::SortedTensors(const LayerTable& table) {
  std::size_t tensors = 0;
  for (const Layer& layer : table.layers) tensors += layer.tensors.size();
  tensors_.reserve(tensors);
  ends_.reserve(table.layers.size());
  for (const Layer& layer : table.layers) add(layer);
}

SortedTensors::SortedTensors(const Layer& layer) {
  tensors_.reserve(layer.tensors.size());
  add(layer);
}

void SortedTensors::add(const Layer& layer) {
  const auto begin = static_cast<std::ptrdiff_t>(tensors_.size());
  const auto index = static_cast<std::uint32_t>(ends_.size());
  for (std::uint32_t i = 0; i < layer.tensors.size(); ++i) {
    const TensorSpec& tensor = layer.tensors[i];
    if (tensor.bytes == 0) continue;
    const auto* extent = std::get_if<FileExtent>(&tensor.source);
    const std::byte* const* address = std::get_if<const std::byte*>(&tensor.source);
    tensors_.push_back({extent != nullptr ? extent->file : SortedTensor::kMemory,
                        extent != nullptr ? extent->offset : reinterpret_cast<std::uintptr_t>(*address),
                        tensor.bytes, index, i});
  }
  const auto added = std::ranges::subrange(tensors_.begin() + begin, tensors_.end());
  // Most layers come so, and to see that is quicker than to sort.
  if (!std::ranges::is_sorted(added)) std::ranges::sort(added);
  ends_.push_back(tensors_.size());
}

}  // namespace tierstream
