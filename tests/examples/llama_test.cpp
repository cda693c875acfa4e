#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "llama/generate.h"
#include "llama/rope.h"
#include "llama/weights.h"
#include "support/checkpoint_files.h"
#include "support/thrown.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream::llama {
namespace {

using testing::HasSubstr;

LlamaConfig small_config() {
  return {.vocabulary_size = 50,
          .hidden_size = 32,
          .intermediate_size = 48,
          .layers = 2,
          .heads = 4,
          .key_value_heads = 2,
          .head_size = 8,
          .windows = {0, 0}};
}

/// A model with random weights of its own.
Llama random_model(const LlamaConfig& config) {
  at::manual_seed(1);
  Llama model(config, at::kFloat);
  for (at::Tensor& parameter : model->parameters()) parameter.set_data(at::randn(parameter.sizes()) * 0.3);
  return model;
}

/// Logits after each of `ids`, which go through the model in pieces of these sizes.
at::Tensor logits_in_pieces(const LlamaConfig& config, const at::Tensor& ids,
                            const std::vector<std::int64_t>& pieces) {
  ResidentLlama weights(random_model(config));
  KvCache cache(config, ids.size(0), at::kFloat);
  std::vector<at::Tensor> logits;
  for (const at::Tensor& piece : ids.split_with_sizes(pieces)) {
    logits.push_back(weights.forward(piece, cache, piece.size(0)));
  }
  return at::cat(logits);
}

at::Tensor some_ids(std::int64_t count) { return (at::arange(count) * 7 + 3).remainder(50); }

std::vector<float> frequencies(const RopeConfig& rope, std::int64_t length = 1) {
  const at::Tensor found = rotary_frequencies(rope, 4, length);
  return {found.const_data_ptr<float>(), found.const_data_ptr<float>() + found.numel()};
}

void expect_near(const std::vector<float>& found, std::array<double, 2> expected) {
  ASSERT_EQ(found.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) EXPECT_NEAR(found[i] / expected[i], 1, 1e-6);
}

TEST(Rope, FrequenciesFallFromOneByTheBase) { expect_near(frequencies({.theta = 10'000}), {1, 0.01}); }

TEST(Rope, LinearScalingDividesThemAll) {
  expect_near(frequencies({.scaling = RopeScaling::kLinear, .factor = 4}), {0.25, 0.0025});
}

TEST(Rope, DynamicScalingRaisesTheBaseBeyondTheTrainedLength) {
  const RopeConfig rope{.scaling = RopeScaling::kDynamicNtk, .factor = 2, .trained_length = 10};
  expect_near(frequencies(rope, 10), {1, 0.01});
  expect_near(frequencies(rope, 30), {1, 0.002});  // 10000 (2 * 30 / 10 - 1)^2 = 250000
}

TEST(Rope, Llama3ScalingKeepsHighDividesLowAndBlendsBetween) {
  RopeConfig rope{.scaling = RopeScaling::kLlama3, .factor = 8, .trained_length = 100};
  expect_near(frequencies(rope), {1, 0.01 / 8});
  rope.theta = 100;  // the wavelength 20 pi lies between 100 / 4 and 100 / 1
  const double kept = (100 / (20 * M_PI) - 1) / 3;
  expect_near(frequencies(rope), {1, (1 - kept) * 0.1 / 8 + kept * 0.1});
}

TEST(Rope, YarnScalingKeepsHighDividesLowAndBlendsBetweenByPlace) {
  // Of heads of size 4 and a base of 10000, the place p turns once in 2 pi 100^p tokens: these are 0.8
  // and 1.4.
  RopeConfig rope{.scaling = RopeScaling::kYarn,
                  .factor = 4,
                  .trained_length = 1000,
                  .low_turns = 1000 / (2 * M_PI * std::pow(100, 1.4)),
                  .high_turns = 1000 / (2 * M_PI * std::pow(100, 0.8))};
  const auto blended = [](double kept) { return kept * 0.01 + (1 - kept) * 0.01 / 4; };
  expect_near(frequencies(rope), {1, blended(0.5)});  // from 0 to 2
  rope.whole_places = false;
  expect_near(frequencies(rope), {1, blended(2.0 / 3)});
  rope.low_turns = rope.high_turns;
  expect_near(frequencies(rope), {1, blended(0)});
  rope.trained_length = 1 << 20;  // both are kept
  expect_near(frequencies(rope), {1, blended(1)});
}

TEST(Rope, LongRopeScalingDividesEachByItsFactorOfTheListForTheLength) {
  const RopeConfig rope{.scaling = RopeScaling::kLongRope,
                        .trained_length = 10,
                        .short_factors = {1, 2},
                        .long_factors = {4, 5}};
  expect_near(frequencies(rope, 10), {1, 0.01 / 2});
  expect_near(frequencies(rope, 11), {1.0 / 4, 0.01 / 5});
}

TEST(Rope, TablesAreMultipliedByTheAttentionFactor) {
  const RotaryTables plain = RotaryTables::make({}, 8, 0, 5, at::kDouble);
  const RotaryTables larger = RotaryTables::make({.attention_factor = 2}, 8, 0, 5, at::kDouble);
  EXPECT_TRUE(at::equal(larger.cosine, plain.cosine * 2));
  EXPECT_TRUE(at::equal(larger.sine, plain.sine * 2));
}

TEST(Rope, ProductsDependOnTheDistanceOnly) {
  const RotaryTables tables = RotaryTables::make({}, 8, 0, 20, at::kDouble);
  at::manual_seed(2);
  const at::Tensor queries = tables.rotate(at::randn({1, 1, 8}, at::kDouble).expand({20, 1, 8})).squeeze(1);
  const at::Tensor keys = tables.rotate(at::randn({1, 1, 8}, at::kDouble).expand({20, 1, 8})).squeeze(1);
  const at::Tensor products = queries.matmul(keys.t());
  for (int i = 0; i < 15; ++i) {
    EXPECT_NEAR(products[i][i + 4].item<double>(), products[0][4].item<double>(), 1e-5);
  }
  EXPECT_GT((products[0][4] - products[0][5]).abs().item<double>(), 1e-3);
  // Position 0 is not rotated.
  EXPECT_TRUE(at::equal(tables.cosine[0], at::ones({1, 8}, at::kDouble)));
}

TEST(Llama, GivesTheSameLogitsInWhateverPieces) {
  for (const std::int64_t window : {0, 3}) {
    LlamaConfig config = small_config();
    config.windows = {0, window};
    const at::Tensor ids = some_ids(12);
    const at::Tensor at_once = logits_in_pieces(config, ids, {12});
    for (const auto& pieces : {std::vector<std::int64_t>(12, 1), {5, 1, 6}, {1, 11}}) {
      const at::Tensor difference = (logits_in_pieces(config, ids, pieces) - at_once).abs().max();
      EXPECT_LT(difference.item<float>(), 1e-4) << pieces.size() << " pieces, window " << window;
    }
  }
}

TEST(Llama, SeesNothingThatComesLaterAndNothingBeyondItsWindow) {
  LlamaConfig config = small_config();
  config.layers = 1;
  config.windows = {4};
  const at::Tensor ids = some_ids(12);
  const at::Tensor changed = ids.clone();
  changed[5] = 0;
  for (const auto& pieces : {std::vector<std::int64_t>{12}, std::vector<std::int64_t>(12, 1)}) {
    const at::Tensor differs =
        (logits_in_pieces(config, ids, pieces) != logits_in_pieces(config, changed, pieces)).any(-1);
    for (int i = 0; i < 12; ++i) EXPECT_EQ(differs[i].item<bool>(), i >= 5 && i < 9) << i;
  }
}

TEST(Llama, TiedEmbeddingsAreTheHead) {
  LlamaConfig config = small_config();
  config.tied_embeddings = true;
  Llama model(config, at::kFloat);
  EXPECT_FALSE(model->named_parameters().contains(LlamaImpl::kHead));
  config.tied_embeddings = false;
  EXPECT_TRUE(Llama(config, at::kFloat)->named_parameters().contains(LlamaImpl::kHead));
}

TEST(Llama, OfAnySizeIsMadeWithoutMemoryForItsWeights) {
  LlamaConfig config{.vocabulary_size = 128'256,
                     .hidden_size = 16'384,
                     .intermediate_size = 53'248,
                     .layers = 126,
                     .heads = 128,
                     .key_value_heads = 8,
                     .head_size = 128};  // Llama 3.1 405B
  config.windows.assign(126, 0);
  const Llama model(config, at::kBFloat16);
  std::int64_t elements = 0;
  for (const at::Tensor& parameter : model->parameters()) {
    elements += parameter.numel();
    EXPECT_EQ(parameter.storage().nbytes(), 2u);
    EXPECT_EQ(parameter.scalar_type(), at::kBFloat16);
  }
  EXPECT_GT(elements, 400'000'000'000);
}

/// A directory with a synthetic checkpoint and its config.json.
class LlamaFilesTest : public testing::Test {
 protected:
  LlamaFilesTest() {
    const SyntheticModel model = write_synthetic_checkpoint(
        directory_.path(), {.layers = 4, .layer_bytes = 256u << 10, .vocabulary = 64, .shards = 2});
    write_config(model.hidden, model.intermediate, 4);
  }

  void write_config(std::uint64_t hidden, std::uint64_t intermediate, int layers) {
    const nlohmann::json fields = {{"model_type", "llama"},
                                   {"hidden_act", "silu"},
                                   {"vocab_size", 64},
                                   {"hidden_size", hidden},
                                   {"intermediate_size", intermediate},
                                   {"num_hidden_layers", layers},
                                   {"num_attention_heads", 8},
                                   {"num_key_value_heads", 2},
                                   {"rms_norm_eps", 1e-5}};
    directory_.write("config.json", bytes_of_text(fields.dump()));
  }

  static Generation generate_from(LlamaRun& weights, const LlamaFiles& files) {
    return generate(weights, files, {.prompt = {1, 2, 3}, .max_tokens = 5, .keep_logits = true});
  }

  TemporaryDirectory directory_;
};

TEST_F(LlamaFilesTest, AreStreamedToTheBitsOfTheResidentModelAtEveryBudget) {
  const LlamaFiles files = LlamaFiles::open(directory_.path());
  ResidentLlama resident(files, at::kCPU);
  const Generation expected = generate_from(resident, files);
  const Budget whole{.gpu = 1u << 30, .pinned = 8u << 20};
  const Plan plan = make_plan(files.table(), whole, {}, {.reads_land = true});
  const Budget half{.gpu = (plan.minimum.gpu + plan.used.gpu) / 2, .pinned = 8u << 20};
  const Budget in_place{.gpu = plan.minimum.gpu, .pinned = 8u << 20, .page_cache = 1u << 30};
  for (const Budget& budget : {plan.minimum, half, in_place, whole}) {
    StreamedLlama streamed(files, {.budget = budget});
    const Generation actual = generate_from(streamed, files);
    EXPECT_EQ(actual.tokens, expected.tokens);
    EXPECT_TRUE(at::equal(actual.logits, expected.logits)) << budget.gpu;
    const StreamerStats stats = streamed.streamer().stats();
    EXPECT_EQ(stats.passes, 5u);
    const std::uint64_t moved = stats.last_pass.bytes.disk + stats.last_pass.bytes.page_cache;
    EXPECT_EQ(moved > 0, budget != whole) << budget.gpu;
  }
}

TEST_F(LlamaFilesTest, AreStreamedFromRamToTheSameBits) {
  const LlamaFiles files = LlamaFiles::open(directory_.path());
  ResidentLlama resident(files, at::kCPU);
  const Generation expected = generate_from(resident, files);
  for (const std::uint64_t gpu : {256u << 10, 768u << 10, 1u << 30}) {  // one slot; more; all
    StreamedLlama streamed(load_llama(files, at::kCPU), {.budget = {.gpu = gpu, .pinned = 1u << 30}});
    const Generation actual = generate_from(streamed, files);
    EXPECT_EQ(actual.tokens, expected.tokens);
    EXPECT_TRUE(at::equal(actual.logits, expected.logits)) << gpu;
    EXPECT_EQ(streamed.streamer().stats().last_pass.bytes.pinned > 0, gpu < 1u << 30) << gpu;
  }
}

TEST_F(LlamaFilesTest, EndAtAnEndToken) {
  LlamaFiles files = LlamaFiles::open(directory_.path());
  ResidentLlama resident(files, at::kCPU);
  const Generation all = generate_from(resident, files);
  EXPECT_EQ(all.tokens.size(), 5u);
  files.config.end_tokens = {all.tokens[0]};
  EXPECT_EQ(generate_from(resident, files).tokens, std::vector{all.tokens[0]});
}

TEST_F(LlamaFilesTest, TellEachTokenAndEachPass) {
  const LlamaFiles files = LlamaFiles::open(directory_.path());
  ResidentLlama resident(files, at::kCPU);
  std::vector<std::int64_t> told;
  int passes = 0;
  const Generation generation = generate(resident, files,
                                         {.prompt = {1},
                                          .max_tokens = 3,
                                          .sampling = {.temperature = 1, .seed = 3},
                                          .on_token = [&](std::int64_t token) { told.push_back(token); },
                                          .on_pass = [&] { ++passes; }});
  EXPECT_EQ(told, generation.tokens);
  EXPECT_EQ(passes, 3);
  EXPECT_FALSE(generation.logits.defined());
}

TEST_F(LlamaFilesTest, RefuseIdsOutsideTheVocabulary) {
  const LlamaFiles files = LlamaFiles::open(directory_.path());
  for (const auto& [id, fragment] : {std::pair{64, "id 64 is outside"}, std::pair{-1, "id -1 is outside"}}) {
    const std::vector<std::int64_t> prompt = {1, id};
    expect_throws(Errc::kInvalidArgument, HasSubstr(fragment), [&] { check_prompt(prompt, files.config); });
  }
  expect_throws(Errc::kInvalidArgument, HasSubstr("no tokens"), [&] { check_prompt({}, files.config); });
}

TEST_F(LlamaFilesTest, RefuseAnotherNumberOfLayersBeforeAnyIsMade) {
  write_config(64, 64, 60'000);
  expect_throws(Errc::kWeightMismatch, HasSubstr("says 60000 layers, the weights have 4"),
                [&] { LlamaFiles::open(directory_.path()); });
}

TEST_F(LlamaFilesTest, RefuseOtherShapes) {
  write_config(128, 1000, 4);  // as wide as the weights are, but for the MLP
  const LlamaFiles files = LlamaFiles::open(directory_.path());
  expect_throws(Errc::kWeightMismatch, HasSubstr("mlp.down_proj.weight"),
                [&] { StreamedLlama streamed(files, {.budget = {.gpu = 1u << 30, .pinned = 8u << 20}}); });
  expect_throws(Errc::kWeightMismatch, HasSubstr("another shape or dtype"),
                [&] { ResidentLlama resident(files, at::kCPU); });
}

TEST(LlamaFiles, RefuseDTypesThatTheModelDoesNotComputeIn) {
  const TemporaryDirectory directory;
  write_synthetic_checkpoint(directory.path(),
                             {.layers = 1, .layer_bytes = 1u << 20, .dtype = DType::kF8E4M3});
  const nlohmann::json fields = {{"model_type", "llama"},    {"hidden_act", "silu"},
                                 {"vocab_size", 64},         {"hidden_size", 64},
                                 {"intermediate_size", 64},  {"num_hidden_layers", 1},
                                 {"num_attention_heads", 8}, {"rms_norm_eps", 1e-5}};
  directory.write("config.json", bytes_of_text(fields.dump()));
  expect_throws(Errc::kUnknownDType, HasSubstr("is F8_E4M3; this model computes in"),
                [&] { LlamaFiles::open(directory.path()); });
}

}  // namespace
}  // namespace tierstream::llama
