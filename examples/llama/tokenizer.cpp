#include "llama/tokenizer.h"

#include <tierstream/io/error.h>

#include <algorithm>
#include <utility>

#include "hugging_face/config_fields.h"

#if TIERSTREAM_HAS_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

namespace tierstream::llama {

#if TIERSTREAM_HAS_SENTENCEPIECE

struct Tokenizer::Model {
  sentencepiece::SentencePieceProcessor processor;
  bool adds_begin = true;
};

std::unique_ptr<Tokenizer> Tokenizer::load_if_there(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "tokenizer.model";
  if (!std::filesystem::exists(file)) return nullptr;
  auto model = std::make_unique<Model>();
  if (const auto status = model->processor.Load(file.string()); !status.ok()) {
    throw Error(Errc::kInvalidArgument, "is no SentencePiece model", {.file = file.string()});
  }
  const auto config = ConfigFields::load_if_there(directory / "tokenizer_config.json");
  if (config) model->adds_begin = config->flag_or("add_bos_token", true);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(model)));
}

std::vector<std::int64_t> Tokenizer::encode(std::string_view text) const {
  const std::vector<int> pieces = model_->processor.EncodeAsIds(text);
  std::vector<std::int64_t> ids(pieces.begin(), pieces.end());
  const int begin = model_->processor.bos_id();
  if (model_->adds_begin && begin >= 0) ids.insert(ids.begin(), begin);
  return ids;
}

std::string Tokenizer::decode(const std::vector<std::int64_t>& ids) const {
  std::vector<int> pieces;
  for (const std::int64_t id : ids) {
    if (id >= 0 && id < model_->processor.GetPieceSize()) pieces.push_back(static_cast<int>(id));
  }
  return model_->processor.DecodeIds(pieces);
}

#else

struct Tokenizer::Model {};

std::unique_ptr<Tokenizer> Tokenizer::load_if_there(const std::filesystem::path&) { return nullptr; }
std::vector<std::int64_t> Tokenizer::encode(std::string_view) const { return {}; }
std::string Tokenizer::decode(const std::vector<std::int64_t>&) const { return {}; }

#endif

Tokenizer::Tokenizer(std::unique_ptr<Model> model) : model_(std::move(model)) {}
Tokenizer::~Tokenizer() = default;

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD, for bytes that are no character (yet)

/// So many tokens decide about the spaces before the next one.
constexpr std::size_t kContextTokens = 8;

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::int64_t> context)
    : tokenizer_(tokenizer), ids_(std::move(context)), written_(ids_.size()) {}

std::string TextStream::add(std::int64_t id) {
  ids_.push_back(id);
  if (tokenizer_.decode(ids_).ends_with(kReplacement)) return {};
  return finish();
}

std::string TextStream::finish() {
  const auto written_end = ids_.begin() + static_cast<std::ptrdiff_t>(written_);
  const std::string before = tokenizer_.decode({ids_.begin(), written_end});
  const std::string all = tokenizer_.decode(ids_);
  ids_.erase(ids_.begin(), ids_.end() - static_cast<std::ptrdiff_t>(std::min(ids_.size(), kContextTokens)));
  written_ = ids_.size();
  return all.substr(std::min(before.size(), all.size()));
}

}  // namespace tierstream::llama
