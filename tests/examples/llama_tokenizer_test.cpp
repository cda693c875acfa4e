#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "llama/tokenizer.h"
#include "support/checkpoint_files.h"
#include "support/thrown.h"

#if TIERSTREAM_HAS_SENTENCEPIECE
#include <sentencepiece_trainer.h>

namespace tierstream::llama {
namespace {

using testing::HasSubstr;

/// A directory with a tokenizer as Llama's: byte pairs, and bytes for characters that it has not seen.
class TokenizerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new TemporaryDirectory;
    std::ofstream text(directory_->path("text"));
    for (int i = 0; i < 50; ++i) text << "the weights of layer " << i << " are streamed, the tokens come\n";
    text.close();
    const auto status = sentencepiece::SentencePieceTrainer::Train(
        "--input=" + directory_->path("text") + " --model_prefix=" + directory_->path("tokenizer") +
        " --model_type=bpe --vocab_size=340 --byte_fallback=true --hard_vocab_limit=false --minloglevel=2");
    ASSERT_TRUE(status.ok()) << status.ToString();
  }
  static void TearDownTestSuite() { delete directory_; }

  static std::unique_ptr<Tokenizer> load() { return Tokenizer::load_if_there(directory_->path()); }

  static TemporaryDirectory* directory_;
};
TemporaryDirectory* TokenizerTest::directory_ = nullptr;

constexpr const char* kText = "the tokens come: naïve 漢字 👍🏽 end  twice";

TEST_F(TokenizerTest, GivesBackTheTextThatItCutsUp) {
  const auto tokenizer = load();
  const std::vector<std::int64_t> ids = tokenizer->encode("the weights are streamed 漢");
  EXPECT_EQ(ids.front(), 1);  // begins a text
  EXPECT_EQ(tokenizer->decode(ids), "the weights are streamed 漢");
}

TEST_F(TokenizerTest, StreamsTheTextInWholeCharacters) {
  const auto tokenizer = load();
  const std::vector<std::int64_t> ids = tokenizer->encode(kText);
  for (std::size_t prompt = 1; prompt < ids.size(); ++prompt) {
    const std::vector<std::int64_t> context(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt));
    const std::string before = tokenizer->decode(context);
    if (before.ends_with("\uFFFD")) continue;  // no prompt ends within a character
    TextStream stream(*tokenizer, context);
    std::string text = before;
    for (std::size_t i = prompt; i < ids.size(); ++i) {
      const std::string piece = stream.add(ids[i]);
      EXPECT_THAT(piece, testing::Not(HasSubstr("\uFFFD")));
      text += piece;
    }
    EXPECT_EQ(text + stream.finish(), tokenizer->decode(ids)) << "after " << prompt << " tokens";
  }
}

TEST_F(TokenizerTest, WritesWhatNeverBecomesACharacterAtTheEnd) {
  const auto tokenizer = load();
  const std::vector<std::int64_t> ids = tokenizer->encode("the 漢");
  TextStream stream(*tokenizer, {});
  std::string text;
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) text += stream.add(ids[i]);  // a byte is missing
  EXPECT_EQ(text, "the ");
  EXPECT_THAT(stream.finish(), HasSubstr("\uFFFD"));
}

TEST_F(TokenizerTest, PassesOverIdsThatItDoesNotKnow) {
  const auto tokenizer = load();
  std::vector<std::int64_t> ids = tokenizer->encode("the tokens");
  ids.push_back(100'000);
  ids.push_back(-1);
  EXPECT_EQ(tokenizer->decode(ids), "the tokens");
}

TEST_F(TokenizerTest, BeginsWithoutATokenWhereTheConfigurationSaysSo) {
  directory_->write("tokenizer_config.json", bytes_of_text(R"({"add_bos_token": false})"));
  EXPECT_NE(load()->encode("the weights").front(), 1);
  std::filesystem::remove(directory_->path("tokenizer_config.json"));
}

TEST(Tokenizer, IsNoneWhereThereIsNoFileAndRefusedWhereItIsWrong) {
  const TemporaryDirectory directory;
  EXPECT_EQ(Tokenizer::load_if_there(directory.path()), nullptr);
  directory.write("tokenizer.model", bytes_of_text("no model"));
  expect_throws(Errc::kInvalidArgument, HasSubstr("tokenizer.model: is no SentencePiece model"),
                [&] { Tokenizer::load_if_there(directory.path()); });
}

}  // namespace
}  // namespace tierstream::llama
#endif
