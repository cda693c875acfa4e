#pragma once

#include <tierstream/io/layer_table.h>

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace tierstream {

/// The unit of host residency: aligned in the file, so that direct reads can begin and end at its edges.
inline constexpr std::uint64_t kChunkBytes = 2u << 20;
/// The same where tensors are used in place, whole or not at all: registering costs nothing, and what a
/// tensor's first and last chunk hold of its neighbours would be kept for nothing.
inline constexpr std::uint64_t kChunkBytesInPlace = 256u << 10;
/// What is registered for DMA at once, at most: 64 MiB, for which the driver keeps every other call waiting
/// for 2 ms; aligned in the file. No copy may cross its edges.
inline constexpr std::uint64_t kWindowChunks = 32;

/// Neighbouring chunks of a file.
struct ChunkSpan {
  std::uint32_t file;
  std::uint64_t first;
  std::uint64_t last;

  std::uint64_t count() const noexcept { return last - first + 1; }
};

/// Chunks of a table's files: what stays in host memory. A plain value.
class ChunkSet {
 public:
  /// A run of neighbours: file bytes [begin, end).
  struct Range {
    std::uint32_t file;
    std::uint64_t begin;
    std::uint64_t end;
  };

  ChunkSet() = default;
  /// Empty, of these files. `chunk_bytes`: a power of two, no less than any file's alignment.
  explicit ChunkSet(std::span<const SourceFile> files, std::uint64_t chunk_bytes = kChunkBytes);

  std::uint64_t chunk_of(std::uint64_t offset) const noexcept { return offset >> chunk_shift_; }
  std::uint64_t window_bytes() const noexcept { return kWindowChunks << chunk_shift_; }

  /// Those that a tensor of at least one byte touches.
  ChunkSpan chunks_of(const FileExtent& extent, std::uint64_t bytes) const noexcept {
    return {extent.file, chunk_of(extent.offset), chunk_of(extent.offset + bytes - 1)};
  }

  /// Of `span` what is not there yet. The last chunk of a file counts up to the file's end.
  std::uint64_t missing_bytes(const ChunkSpan& span) const;
  void insert(const ChunkSpan& span);
  /// Removes what `others`, of the same files and chunks, do not have.
  void keep_only(const ChunkSet& others);
  void clear() noexcept;
  bool contains(std::uint32_t file, std::uint64_t chunk) const {
    return ((files_[file].words[chunk / kWordChunks] >> chunk % kWordChunks) & 1) != 0;
  }
  /// All of the file bytes [begin, end).
  bool covers(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const;
  /// Where the stretch from `begin` on ends, `end` at most, that is all in the set or all outside it.
  std::uint64_t stretch_end(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const;

  bool empty() const noexcept;
  std::uint64_t bytes() const noexcept;
  std::uint64_t bytes(std::uint32_t file) const noexcept;
  /// Runs of neighbours, cut at windows' edges, in the order of files and offsets.
  std::vector<Range> ranges() const;

 private:
  static constexpr std::uint64_t kWordChunks = 64;
  struct File {
    std::uint64_t bytes;
    std::vector<std::uint64_t> words;  ///< a bit for each chunk
  };
  /// Calls `visit` for each word that the span's bits lie in, with its index and these bits.
  template <typename Visit>
  static void visit_words(const ChunkSpan& span, Visit visit);

  int chunk_shift_ = std::countr_zero(kChunkBytes);
  std::vector<File> files_;
};

}  // namespace tierstream
