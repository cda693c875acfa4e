#pragma once

#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/page_cache.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace tierstream {

/// How far the copies of a layout out of host memory are queued: its memory copies first, then its mapped
/// ones. They may be queued in parts.
class HostCopies {
 public:
  /// What is left of one copy.
  struct Copy {
    const std::byte* source;
    std::uint64_t slot_offset;
    std::uint64_t bytes;
    std::optional<std::uint32_t> kept_file;  ///< of a mapped one
  };

  /// Good for nothing but to be assigned to.
  HostCopies() = default;
  /// None is queued yet. Borrows `layout`.
  explicit HostCopies(const LayerLayout& layout) : layout_(&layout) {}

  bool all_queued() const { return next_ == layout_->memory_copies.size() + layout_->mapped_copies.size(); }

  /// Empty: all are queued, or the next one is mapped and `pages` null, since they have not come.
  std::optional<Copy> next(const PageCache* pages) const {
    const std::size_t from_memory = layout_->memory_copies.size();
    if (next_ < from_memory) {
      const MemoryCopy& copy = layout_->memory_copies[next_];
      return rest_of(copy, copy.source, std::nullopt);
    }
    if (all_queued() || pages == nullptr) return std::nullopt;
    const MappedCopy& copy = layout_->mapped_copies[next_ - from_memory];
    return rest_of(copy, pages->address(copy.file, copy.offset), copy.file);
  }

  /// The first `bytes` of `copy`, the next one, are queued.
  void advance(const Copy& copy, std::uint64_t bytes) {
    queued_ += bytes;
    if (bytes != copy.bytes) return;
    ++next_;
    queued_ = 0;
  }

 private:
  Copy rest_of(const auto& copy, const std::byte* source, std::optional<std::uint32_t> kept_file) const {
    return {source + queued_, copy.slot_offset + queued_, copy.bytes - queued_, kept_file};
  }

  const LayerLayout* layout_ = nullptr;
  std::size_t next_ = 0;      // the first that is not all queued
  std::uint64_t queued_ = 0;  // of that one; bytes
};

}  // namespace tierstream
