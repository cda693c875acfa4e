#pragma once

#include <tierstream/io/layer_table.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace tierstream {

/// A tensor of at least one byte, by where its bytes lie: file by file, those in memory behind all files.
struct SortedTensor {
  static constexpr std::uint32_t kMemory = std::numeric_limits<std::uint32_t>::max();

  std::uint32_t file;    ///< or kMemory
  std::uint64_t offset;  ///< in memory: the address
  std::uint64_t bytes;
  std::uint32_t layer;
  std::uint32_t tensor;  ///< of the layer

  bool in_memory() const noexcept { return file == kMemory; }
  const std::byte* address() const noexcept { return reinterpret_cast<const std::byte*>(offset); }
  FileExtent extent() const noexcept { return {file, offset}; }
  std::uint64_t end() const noexcept { return offset + bytes; }
  bool follows(const SortedTensor& other) const noexcept {
    return offset == other.end() && file == other.file;
  }
  bool is_tied_to(const SortedTensor& other) const noexcept {
    return offset == other.offset && bytes == other.bytes && file == other.file;
  }
  auto operator<=>(const SortedTensor&) const = default;
};

/// Tensors in an order in which tied ones and those that follow each other in a file are neighbours. Sorted
/// once for all that a plan decides.
class SortedTensors {
 public:
  explicit SortedTensors(const LayerTable& table);
  /// Of one layer alone, as number 0.
  explicit SortedTensors(const Layer& layer);

  std::size_t layers() const noexcept { return ends_.size(); }
  std::size_t size() const noexcept { return tensors_.size(); }
  std::span<const SortedTensor> all() const noexcept { return tensors_; }
  std::span<const SortedTensor> of(std::size_t layer) const noexcept {
    const std::size_t begin = layer == 0 ? 0 : ends_[layer - 1];
    return std::span(tensors_).subspan(begin, ends_[layer] - begin);
  }

 private:
  void add(const Layer& layer);

  std::vector<SortedTensor> tensors_;
  std::vector<std::size_t> ends_;  // by layer
};

}  // namespace tierstream
