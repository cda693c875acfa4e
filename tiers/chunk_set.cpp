#include <tierstream/tiers/chunk_set.h>

#include <algorithm>

namespace tierstream {

ChunkSet::ChunkSet(std::span<const SourceFile> files, std::uint64_t chunk_bytes) : chunk_bytes_(chunk_bytes) {
  files_.reserve(files.size());
  for (const SourceFile& file : files) {
    const std::uint64_t chunks = (file.info.bytes + chunk_bytes_ - 1) / chunk_bytes_;
    files_.push_back({file.info.bytes, std::vector<bool>(chunks)});
  }
}

bool ChunkSet::insert(std::uint32_t file, std::uint64_t chunk) {
  auto place = files_[file].chunks[chunk];
  if (place) return false;
  place = true;
  bytes_ += bytes_of(file, chunk);
  return true;
}

bool ChunkSet::covers(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const {
  return contains(file, begin / chunk_bytes_) && stretch_end(file, begin, end) == end;
}

std::uint64_t ChunkSet::stretch_end(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const {
  const std::vector<bool>& chunks = files_[file].chunks;
  std::uint64_t chunk = begin / chunk_bytes_;
  const bool inside = chunk < chunks.size() && chunks[chunk];
  // Direct reads may reach past the file's end: nothing is kept there.
  while (chunk * chunk_bytes_ < end && (chunk < chunks.size() && chunks[chunk]) == inside) ++chunk;
  return std::min(end, chunk * chunk_bytes_);
}

std::uint64_t ChunkSet::bytes_of(std::uint32_t file, std::uint64_t chunk) const {
  return std::min(chunk_bytes_, files_[file].bytes - chunk * chunk_bytes_);
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
