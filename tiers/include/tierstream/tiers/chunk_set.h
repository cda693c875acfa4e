#pragma once

#include <tierstream/io/layer_table.h>

#include <cstdint>
#include <span>
#include <vector>

namespace tierstream {

/// The unit of host residency: aligned in the file, so that direct reads can begin and end at its edges.
inline constexpr std::uint64_t kChunkBytes = 2u << 20;
/// The same where tensors are used in place, whole or not at all: registering costs nothing, and what a
/// tensor's first and last chunk hold of its neighbours would be kept for nothing.
inline constexpr std::uint64_t kChunkBytesInPlace = 256u << 10;
/// What is registered for DMA at once, at most: 256 MiB; aligned in the file. No copy may cross its edges.
inline constexpr std::uint64_t kWindowChunks = 128;

/// Chunks of a table's files: what the page-cache tier keeps. A plain value.
class ChunkSet {
 public:
  /// A run of neighbours: file bytes [begin, end).
  struct Range {
    std::uint32_t file;
    std::uint64_t begin;
    std::uint64_t end;
  };

  ChunkSet() = default;
  /// Empty, of these files. `chunk_bytes`: a multiple of every file's alignment.
  explicit ChunkSet(std::span<const SourceFile> files, std::uint64_t chunk_bytes = kChunkBytes);

  std::uint64_t chunk_of(std::uint64_t offset) const noexcept { return offset / chunk_bytes_; }
  std::uint64_t window_bytes() const noexcept { return chunk_bytes_ * kWindowChunks; }

  /// The chunk that begins at `chunk` times the chunks' size. False: it was there already.
  bool insert(std::uint32_t file, std::uint64_t chunk);
  bool contains(std::uint32_t file, std::uint64_t chunk) const { return files_[file].chunks[chunk]; }
  /// All of the file bytes [begin, end).
  bool covers(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const;
  /// Where the stretch from `begin` on ends, `end` at most, that is all in the set or all outside it.
  std::uint64_t stretch_end(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const;

  bool empty() const noexcept { return bytes_ == 0; }
  /// The last chunk of a file counts up to the file's end.
  std::uint64_t bytes() const noexcept { return bytes_; }
  std::uint64_t bytes_of(std::uint32_t file, std::uint64_t chunk) const;
  /// Runs of neighbours, cut at windows' edges, in the order of files and offsets.
  std::vector<Range> ranges() const;

 private:
  struct File {
    std::uint64_t bytes;
    std::vector<bool> chunks;
  };
  std::uint64_t chunk_bytes_ = kChunkBytes;
  std::vector<File> files_;
  std::uint64_t bytes_ = 0;
};

}  // namespace tierstream
