#include <tierstream/tiers/chunk_set.h>

#include <algorithm>
#include <functional>

namespace tierstream {

ChunkSet::ChunkSet(std::span<const SourceFile> files, std::uint64_t chunk_bytes)
    : chunk_shift_(std::countr_zero(chunk_bytes)) {
  files_.reserve(files.size());
  for (const SourceFile& file : files) {
    const std::uint64_t words = file.info.bytes == 0 ? 0 : chunk_of(file.info.bytes - 1) / kWordChunks + 1;
    files_.push_back({file.info.bytes, std::vector<std::uint64_t>(words)});
  }
}

template <typename Visit>
void ChunkSet::visit_words(const ChunkSpan& span, Visit visit) {
  for (std::uint64_t chunk = span.first, next = 0; chunk <= span.last; chunk = next) {
    next = std::min(span.last, chunk | (kWordChunks - 1)) + 1;
    visit(chunk / kWordChunks, ~std::uint64_t{0} >> (kWordChunks - (next - chunk)) << chunk % kWordChunks);
  }
}

std::uint64_t ChunkSet::missing_bytes(const ChunkSpan& span) const {
  const File& file = files_[span.file];
  std::uint64_t chunks = 0;
  visit_words(span, [&](std::uint64_t index, std::uint64_t mask) {
    chunks += static_cast<std::uint64_t>(std::popcount(mask & ~file.words[index]));
  });
  const std::uint64_t bytes = chunks << chunk_shift_;
  const std::uint64_t end = (span.last + 1) << chunk_shift_;
  return end <= file.bytes || contains(span.file, span.last) ? bytes : bytes - (end - file.bytes);
}

void ChunkSet::insert(const ChunkSpan& span) {
  std::vector<std::uint64_t>& words = files_[span.file].words;
  visit_words(span, [&](std::uint64_t index, std::uint64_t mask) { words[index] |= mask; });
}

void ChunkSet::keep_only(const ChunkSet& others) {
  for (std::size_t file = 0; file < files_.size(); ++file) {
    std::ranges::transform(files_[file].words, others.files_[file].words, files_[file].words.begin(),
                           std::bit_and{});
  }
}

void ChunkSet::clear() noexcept {
  for (File& file : files_) std::ranges::fill(file.words, 0u);
}

bool ChunkSet::empty() const noexcept {
  return std::ranges::all_of(files_, [](const File& file) {
    return std::ranges::all_of(file.words, [](std::uint64_t word) { return word == 0; });
  });
}

std::uint64_t ChunkSet::bytes() const noexcept {
  std::uint64_t sum = 0;
  for (std::uint32_t file = 0; file < files_.size(); ++file) sum += bytes(file);
  return sum;
}

std::uint64_t ChunkSet::bytes(std::uint32_t file) const noexcept {
  const std::uint64_t bytes = files_[file].bytes;
  return bytes == 0 ? 0 : bytes - missing_bytes({file, 0, chunk_of(bytes - 1)});
}

bool ChunkSet::covers(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const {
  return contains(file, chunk_of(begin)) && stretch_end(file, begin, end) == end;
}

std::uint64_t ChunkSet::stretch_end(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const {
  const std::vector<std::uint64_t>& words = files_[file].words;
  // Direct reads may reach past the file's end: nothing is kept there.
  const auto word_at = [&](std::uint64_t chunk) {
    const std::uint64_t index = chunk / kWordChunks;
    return index < words.size() ? words[index] >> chunk % kWordChunks : 0;
  };
  std::uint64_t chunk = chunk_of(begin);
  const bool inside = (word_at(chunk) & 1) != 0;
  while (chunk << chunk_shift_ < end) {
    const std::uint64_t others = inside ? ~word_at(chunk) : word_at(chunk);
    const std::uint64_t left = kWordChunks - chunk % kWordChunks;  // in this word
    const auto same = static_cast<std::uint64_t>(std::countr_zero(others));
    chunk += std::min(same, left);
    if (same < left) break;
  }
  return std::min(end, chunk << chunk_shift_);
}

std::vector<ChunkSet::Range> ChunkSet::ranges() const {
  std::vector<Range> ranges;
  for (std::uint32_t file = 0; file < files_.size(); ++file) {
    const std::uint64_t bytes = files_[file].bytes;
    for (std::uint64_t begin = 0, end = 0; begin < bytes; begin = end) {
      const std::uint64_t window_end = std::min(bytes, (begin / window_bytes() + 1) * window_bytes());
      end = stretch_end(file, begin, window_end);
      if (contains(file, chunk_of(begin))) ranges.push_back({file, begin, end});
    }
  }
  return ranges;
}

}  // namespace tierstream
