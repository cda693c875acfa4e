#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/sorted_tensors.h>

#include <numeric>

#include "layout_builder.h"

namespace tierstream {

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
  const std::uint64_t alignment = bytes <= allocation_bytes / 2 ? kSlotAlignment : allocation_bytes;
  return (bytes + alignment - 1) & ~(alignment - 1);
}

LayerLayout make_layer_layout(const Layer& layer, std::span<const SourceFile> files, const LayoutRules& rules,
                              const LayerPart& part) {
  return LayoutBuilder(files, rules).build(layer, SortedTensors(layer).of(0), part);
}

}  // namespace tierstream
