#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tierstream::minilm {

/// BERT's uncased tokenizer: lower case, accents removed, split at spaces, punctuation and CJK characters,
/// then each word cut greedily into the longest pieces of the vocabulary. Source: Devlin et al.,
/// google-research/bert, tokenization.py. Invalid UTF-8 is dropped.
class WordPiece {
 public:
  /// `vocabulary`: one piece a line, the line's number is its id. Throws tierstream::Error.
  static WordPiece load(const std::filesystem::path& vocabulary);

  /// [CLS] pieces [SEP], cut to `max_tokens`.
  std::vector<std::int64_t> encode(std::string_view text, std::size_t max_tokens) const;

  std::int64_t padding() const noexcept { return padding_; }

 private:
  void append_pieces(std::string_view word, std::vector<std::int64_t>& ids) const;

  std::unordered_map<std::string, std::int64_t> ids_;
  std::int64_t padding_ = 0;
  std::int64_t unknown_ = 0;
  std::int64_t begin_ = 0;
  std::int64_t end_ = 0;
};

/// The text as words, ready to be cut into pieces.
std::vector<std::string> split_words(std::string_view text);

}  // namespace tierstream::minilm
