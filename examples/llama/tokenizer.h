#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tierstream::llama {

/// The SentencePiece tokenizer of a Hugging Face directory, its tokenizer.model.
///
/// Errors: Error kOpenFailed or kInvalidArgument naming the file. Threads: const functions from any.
class Tokenizer {
 public:
  /// Null where the directory has no tokenizer.model, or this program was built without SentencePiece.
  static std::unique_ptr<Tokenizer> load_if_there(const std::filesystem::path& directory);
  ~Tokenizer();

  /// With the token that begins a text, unless tokenizer_config.json has "add_bos_token": false.
  std::vector<std::int64_t> encode(std::string_view text) const;
  /// Tokens that the tokenizer does not know give nothing.
  std::string decode(const std::vector<std::int64_t>& ids) const;

 private:
  struct Model;
  explicit Tokenizer(std::unique_ptr<Model> model);

  std::unique_ptr<Model> model_;  ///< hides SentencePiece's headers
};

/// Turns ids into text as they come: pieces join to words and bytes to characters only with their neighbours.
class TextStream {
 public:
  /// `context` comes before the first id and is not written. Borrows the tokenizer.
  TextStream(const Tokenizer& tokenizer, std::vector<std::int64_t> context);

  /// What `id` adds to the text; empty while a character is not complete.
  std::string add(std::int64_t id);
  /// What was held back for a character that never became complete.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::int64_t> ids_;  ///< the last ids that were written, and those that were not
  std::size_t written_;            ///< of `ids_`
};

}  // namespace tierstream::llama
