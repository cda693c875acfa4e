#include "memory_overlaps.h"

#include <algorithm>
#include <cstdint>

namespace tierstream {

std::span<const std::byte> extent_of(const at::Tensor& tensor) {
  if (!tensor.has_storage() || tensor.numel() == 0) return {};
  std::int64_t last = 0;
  for (std::int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  const auto* const begin = static_cast<const std::byte*>(tensor.const_data_ptr());
  if (begin == nullptr) return {};
  return {begin, static_cast<std::size_t>(last + 1) * tensor.element_size()};
}

std::vector<std::vector<std::size_t>> group_by_memory(std::span<const at::Tensor> tensors) {
  struct Entry {
    std::span<const std::byte> extent;
    std::size_t position;
  };
  std::vector<Entry> entries;
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto extent = extent_of(tensors[i]);
    if (extent.empty()) {
      groups.push_back({i});  // memory of its own, or none
    } else {
      entries.push_back({extent, i});
    }
  }
  std::ranges::stable_sort(entries, {}, [](const Entry& entry) { return entry.extent.data(); });
  const std::byte* end = nullptr;
  for (const Entry& entry : entries) {
    if (end == nullptr || entry.extent.data() >= end) groups.emplace_back();
    groups.back().push_back(entry.position);
    end = std::max(end, entry.extent.data() + entry.extent.size());
  }
  return groups;
}

}  // namespace tierstream
