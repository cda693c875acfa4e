#include "wordpiece.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>

namespace tierstream::minilm {
namespace {

using CodePoint = utf8proc_int32_t;

/// Longer words are unknown as a whole; in code points.
constexpr std::size_t kMaxWordLength = 100;

std::vector<CodePoint> decode(std::string_view text) {
  std::vector<CodePoint> code_points;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    CodePoint code_point;
    const auto length =
        utf8proc_iterate(bytes + i, static_cast<utf8proc_ssize_t>(text.size() - i), &code_point);
    if (length > 0) code_points.push_back(code_point);
    i += static_cast<std::size_t>(std::max<utf8proc_ssize_t>(length, 1));
  }
  return code_points;
}

void append(std::string& text, CodePoint code_point) {
  std::array<utf8proc_uint8_t, 4> bytes;
  const auto length = utf8proc_encode_char(code_point, bytes.data());
  text.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(length));
}

std::vector<CodePoint> canonical_decomposition(const std::vector<CodePoint>& code_points) {
  std::string text;
  for (const CodePoint code_point : code_points) append(text, code_point);
  utf8proc_uint8_t* decomposed = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                   static_cast<utf8proc_ssize_t>(text.size()), &decomposed,
                                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(decomposed, &std::free);
  if (length < 0) throw Error(Errc::kInvalidArgument, utf8proc_errmsg(length));
  return decode({reinterpret_cast<const char*>(decomposed), static_cast<std::size_t>(length)});
}

bool is_space(CodePoint c) {
  if (c == '\t' || c == '\n' || c == '\r') return true;
  const auto category = utf8proc_category(c);
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

/// Control, format, private and unassigned characters, which the tokenizer drops.
bool is_dropped(CodePoint c) {
  if (c == 0 || c == 0xFFFD) return true;
  const auto category = utf8proc_category(c);
  return category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
         category == UTF8PROC_CATEGORY_CO || category == UTF8PROC_CATEGORY_CN ||
         category == UTF8PROC_CATEGORY_CS;
}

/// Every ASCII character that is neither a letter, a digit nor a space counts, as in the original.
bool is_punctuation(CodePoint c) {
  if (c < 0x80)
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  const auto category = utf8proc_category(c);
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

/// The blocks of CJK ideographs; Hangul, Hiragana and Katakana are written with spaces or kept whole.
bool is_ideograph(CodePoint c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B820 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

/// The longest prefix of `text` that ends between characters and is shorter than `bytes`.
std::size_t previous_boundary(std::string_view text, std::size_t bytes) {
  do --bytes;
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80);
  return bytes;
}

}  // namespace

std::vector<std::string> split_words(std::string_view text) {
  std::vector<CodePoint> characters;
  for (const CodePoint c : decode(text)) {
    if (is_space(c)) {
      characters.push_back(' ');
    } else if (is_ideograph(c)) {
      characters.insert(characters.end(), {' ', c, ' '});
    } else if (!is_dropped(c)) {
      characters.push_back(c);
    }
  }
  std::vector<std::string> words;
  bool in_word = false;
  for (const CodePoint decomposed : canonical_decomposition(characters)) {
    if (utf8proc_category(decomposed) == UTF8PROC_CATEGORY_MN) continue;
    const CodePoint c = utf8proc_tolower(decomposed);
    if (is_space(c)) {
      in_word = false;
    } else if (is_punctuation(c)) {
      append(words.emplace_back(), c);
      in_word = false;
    } else {
      if (!in_word) words.emplace_back();
      append(words.back(), c);
      in_word = true;
    }
  }
  return words;
}

WordPiece WordPiece::load(const std::filesystem::path& vocabulary) {
  std::ifstream file(vocabulary);
  if (!file) throw Error(Errc::kOpenFailed, "cannot open the vocabulary", {.file = vocabulary.string()});
  WordPiece tokenizer;
  std::int64_t id = 0;
  for (std::string piece; std::getline(file, piece); ++id) tokenizer.ids_.emplace(piece, id);
  const auto special = [&](const char* piece) {
    const auto found = tokenizer.ids_.find(piece);
    if (found != tokenizer.ids_.end()) return found->second;
    throw Error(Errc::kInvalidArgument, fmt::format("the vocabulary lacks {}", piece),
                {.file = vocabulary.string()});
  };
  tokenizer.padding_ = special("[PAD]");
  tokenizer.unknown_ = special("[UNK]");
  tokenizer.begin_ = special("[CLS]");
  tokenizer.end_ = special("[SEP]");
  return tokenizer;
}

std::vector<std::int64_t> WordPiece::encode(std::string_view text, std::size_t max_tokens) const {
  std::vector<std::int64_t> ids{begin_};
  for (const std::string& word : split_words(text)) append_pieces(word, ids);
  ids.resize(std::min(ids.size(), max_tokens - 1));
  ids.push_back(end_);
  return ids;
}

void WordPiece::append_pieces(std::string_view word, std::vector<std::int64_t>& ids) const {
  const std::size_t ids_before = ids.size();
  bool known = decode(word).size() <= kMaxWordLength;
  for (std::string_view rest = word; known && !rest.empty();) {
    const char* const prefix = rest.size() == word.size() ? "" : "##";
    std::size_t bytes = rest.size();
    auto found = ids_.find(prefix + std::string(rest));
    while (found == ids_.end() && (bytes = previous_boundary(rest, bytes)) > 0) {
      found = ids_.find(prefix + std::string(rest.substr(0, bytes)));
    }
    known = found != ids_.end();
    if (known) ids.push_back(found->second);
    rest.remove_prefix(bytes);
  }
  if (!known) {
    ids.resize(ids_before);
    ids.push_back(unknown_);
  }
}

}  // namespace tierstream::minilm
