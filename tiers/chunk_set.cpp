#include <tierstream/tiers/chunk_set.h>

#include <algorithm>
#include <utility>

namespace tierstream {

ChunkSet::ChunkSet(std::span<const SourceFile> files, std::uint64_t chunk_bytes) : chunk_bytes_(chunk_bytes) {
  files_.reserve(files.size());
  for (const SourceFile& file : files) {
    const std::uint64_t chunks = (file.info.bytes + chunk_bytes_ - 1) / chunk_bytes_;
    files_.push_back({file.info.bytes, 0, std::vector<std::uint8_t>(chunks)});
  }
}

ChunkSpan ChunkSet::chunks_of(const FileExtent& extent, std::uint64_t bytes) const noexcept {
  return {extent.file, chunk_of(extent.offset), chunk_of(extent.offset + bytes - 1)};
}

std::uint64_t ChunkSet::missing_bytes(const ChunkSpan& span) const {
  std::uint64_t bytes = 0;
  for (std::uint64_t chunk = span.first; chunk <= span.last; ++chunk) {
    if (!contains(span.file, chunk)) bytes += bytes_of(span.file, chunk);
  }
  return bytes;
}

std::uint64_t ChunkSet::insert(const ChunkSpan& span) {
  std::vector<std::uint8_t>& chunks = files_[span.file].chunks;
  std::uint64_t bytes = 0;
  for (std::uint64_t chunk = span.first; chunk <= span.last; ++chunk) {
    if (std::exchange(chunks[chunk], std::uint8_t{1}) == 0) bytes += bytes_of(span.file, chunk);
  }
  files_[span.file].kept_bytes += bytes;
  return bytes;
}

void ChunkSet::keep_only(const ChunkSet& others) {
  for (std::uint32_t file = 0; file < files_.size(); ++file) {
    files_[file].kept_bytes = 0;
    std::vector<std::uint8_t>& chunks = files_[file].chunks;
    for (std::uint64_t chunk = 0; chunk < chunks.size(); ++chunk) {
      chunks[chunk] &= others.files_[file].chunks[chunk];
      if (chunks[chunk] != 0) files_[file].kept_bytes += bytes_of(file, chunk);
    }
  }
}

void ChunkSet::clear() noexcept {
  for (File& file : files_) {
    std::ranges::fill(file.chunks, std::uint8_t{0});
    file.kept_bytes = 0;
  }
}

std::uint64_t ChunkSet::bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const File& file : files_) sum += file.kept_bytes;
  return sum;
}

bool ChunkSet::covers(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const {
  return contains(file, begin / chunk_bytes_) && stretch_end(file, begin, end) == end;
}

std::uint64_t ChunkSet::stretch_end(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const {
  const std::vector<std::uint8_t>& chunks = files_[file].chunks;
  std::uint64_t chunk = begin / chunk_bytes_;
  const bool inside = chunk < chunks.size() && chunks[chunk] != 0;
  // Direct reads may reach past the file's end: nothing is kept there.
  while (chunk * chunk_bytes_ < end && (chunk < chunks.size() && chunks[chunk] != 0) == inside) ++chunk;
  return std::min(end, chunk * chunk_bytes_);
}

std::vector<ChunkSet::Range> ChunkSet::ranges() const {
  std::vector<Range> ranges;
  for (std::uint32_t file = 0; file < files_.size(); ++file) {
    const std::uint64_t bytes = files_[file].bytes;
    for (std::uint64_t begin = 0, end = 0; begin < bytes; begin = end) {
      const std::uint64_t window_end = std::min(bytes, (begin / window_bytes() + 1) * window_bytes());
      end = stretch_end(file, begin, window_end);
      if (contains(file, begin / chunk_bytes_)) ranges.push_back({file, begin, end});
    }
  }
  return ranges;
}

}  // namespace tierstream
