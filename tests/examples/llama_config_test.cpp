#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "llama/config.h"
#include "support/checkpoint_files.h"
#include "support/thrown.h"

namespace tierstream::llama {
namespace {

using nlohmann::json;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const json kLlama = {{"model_type", "llama"},    {"hidden_act", "silu"},
                     {"vocab_size", 100},        {"hidden_size", 64},
                     {"intermediate_size", 96},  {"num_hidden_layers", 3},
                     {"num_attention_heads", 8}, {"num_key_value_heads", 2},
                     {"rms_norm_eps", 1e-5},     {"max_position_embeddings", 50},
                     {"eos_token_id", 7}};

json with(json changes) {
  json fields = kLlama;
  fields.update(changes);
  return fields;
}

LlamaConfig load(const json& fields, const json& generation = {}) {
  const TemporaryDirectory directory;
  directory.write("config.json", bytes_of_text(fields.dump()));
  if (!generation.is_null()) directory.write("generation_config.json", bytes_of_text(generation.dump()));
  return LlamaConfig::load(directory.path());
}

TEST(LlamaConfig, TakesWhatAFileSays) {
  const LlamaConfig config =
      load(with({{"head_dim", 10}, {"tie_word_embeddings", true}, {"rope_theta", 5e5}}));
  EXPECT_EQ(config.vocabulary_size, 100);
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.intermediate_size, 96);
  EXPECT_EQ(config.layers, 3);
  EXPECT_EQ(config.heads, 8);
  EXPECT_EQ(config.key_value_heads, 2);
  EXPECT_EQ(config.head_size, 10);
  EXPECT_EQ(config.norm_epsilon, 1e-5);
  EXPECT_EQ(config.rope.theta, 5e5);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_THAT(config.end_tokens, ElementsAre(7));
}

TEST(LlamaConfig, TakesDefaultsForWhatOlderFilesLeaveOut) {
  json fields = kLlama;
  fields.erase("num_key_value_heads");
  fields["head_dim"] = nullptr;
  const LlamaConfig config = load(fields);
  EXPECT_EQ(config.key_value_heads, 8);
  EXPECT_EQ(config.head_size, 8);
  EXPECT_EQ(config.rope.theta, 10'000);
  EXPECT_EQ(config.rope.scaling, RopeScaling::kNone);
  EXPECT_FALSE(config.tied_embeddings || config.query_key_value_bias || config.mlp_bias);
  EXPECT_THAT(config.windows, ElementsAre(0, 0, 0));
}

TEST(LlamaConfig, KnowsTheBiasesOfEachFamily) {
  const LlamaConfig llama = load(with({{"attention_bias", true}, {"mlp_bias", true}}));
  EXPECT_TRUE(llama.query_key_value_bias && llama.attention_output_bias && llama.mlp_bias);
  const LlamaConfig qwen2 = load(with({{"model_type", "qwen2"}}));
  EXPECT_TRUE(qwen2.query_key_value_bias);
  EXPECT_FALSE(qwen2.attention_output_bias || qwen2.mlp_bias);
  const LlamaConfig mistral = load(with({{"model_type", "mistral"}, {"attention_bias", true}}));
  EXPECT_FALSE(mistral.query_key_value_bias || mistral.attention_output_bias);
}

TEST(LlamaConfig, KnowsTheWindowsOfEachFamily) {
  EXPECT_THAT(load(with({{"sliding_window", 9}})).windows, Each(0));
  EXPECT_THAT(load(with({{"model_type", "mistral"}, {"sliding_window", 9}})).windows, ElementsAre(9, 9, 9));
  EXPECT_THAT(load(with({{"model_type", "mistral"}, {"sliding_window", nullptr}})).windows, Each(0));
  json qwen2 = with({{"model_type", "qwen2"}, {"sliding_window", 9}, {"max_window_layers", 2}});
  EXPECT_THAT(load(qwen2).windows, Each(0));
  qwen2["use_sliding_window"] = true;
  EXPECT_THAT(load(qwen2).windows, ElementsAre(0, 0, 9));
  qwen2["layer_types"] = {"sliding_attention", "full_attention", "full_attention"};
  EXPECT_THAT(load(qwen2).windows, ElementsAre(9, 0, 0));
}

TEST(LlamaConfig, TakesTheRotaryScalingFromEitherName) {
  const json llama3 = {{"rope_type", "llama3"},  {"factor", 8.0},
                       {"low_freq_factor", 1.0}, {"high_freq_factor", 4},
                       {"rope_theta", 500000.0}, {"original_max_position_embeddings", 40}};
  const LlamaConfig config = load(with({{"rope_parameters", llama3}}));
  EXPECT_EQ(config.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(config.rope.theta, 500'000);
  EXPECT_EQ(config.rope.factor, 8);
  EXPECT_EQ(config.rope.low_turns, 1);
  EXPECT_EQ(config.rope.high_turns, 4);
  EXPECT_EQ(config.rope.trained_length, 40);

  const LlamaConfig older =
      load(with({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}, {"rope_theta", 1e6}}));
  EXPECT_EQ(older.rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(older.rope.theta, 1e6);
  const LlamaConfig dynamic = load(with({{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}));
  EXPECT_EQ(dynamic.rope.scaling, RopeScaling::kDynamicNtk);
  EXPECT_EQ(dynamic.rope.trained_length, 50);
}

TEST(LlamaConfig, TakesAYarnScaling) {
  const RopeConfig rope =
      load(
          with({{"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"mscale", 1}, {"mscale_all_dim", 0}}}}))
          .rope;
  EXPECT_EQ(rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(rope.factor, 4);
  EXPECT_EQ(rope.trained_length, 50);
  EXPECT_EQ(rope.low_turns, 1);
  EXPECT_EQ(rope.high_turns, 32);
  EXPECT_TRUE(rope.whole_places);
  EXPECT_DOUBLE_EQ(rope.attention_factor, 0.1 * std::log(4) + 1);

  json yarn = {{"rope_type", "yarn"}, {"original_max_position_embeddings", 20},
               {"beta_fast", 16},     {"beta_slow", 2},
               {"truncate", false},   {"mscale", 2.0},
               {"mscale_all_dim", 1}};
  const RopeConfig other = load(with({{"rope_parameters", yarn}})).rope;
  EXPECT_EQ(other.factor, 2.5);
  EXPECT_EQ(other.trained_length, 20);
  EXPECT_EQ(other.low_turns, 2);
  EXPECT_EQ(other.high_turns, 16);
  EXPECT_FALSE(other.whole_places);
  EXPECT_DOUBLE_EQ(other.attention_factor, (0.2 * std::log(2.5) + 1) / (0.1 * std::log(2.5) + 1));

  yarn["attention_factor"] = 0.75;
  EXPECT_EQ(load(with({{"rope_parameters", yarn}})).rope.attention_factor, 0.75);
}

const json kLongRope = {{"rope_type", "longrope"},
                        {"short_factor", {1, 1.5, 2, 2.5}},
                        {"long_factor", {1, 2, 4, 8}},
                        {"original_max_position_embeddings", 25}};

TEST(LlamaConfig, TakesALongRopeScaling) {
  json fields = kLongRope;
  const RopeConfig rope = load(with({{"rope_parameters", fields}})).rope;
  EXPECT_EQ(rope.scaling, RopeScaling::kLongRope);
  EXPECT_EQ(rope.trained_length, 25);
  EXPECT_THAT(rope.short_factors, ElementsAre(1, 1.5, 2, 2.5));
  EXPECT_THAT(rope.long_factors, ElementsAre(1, 2, 4, 8));
  EXPECT_DOUBLE_EQ(rope.attention_factor, std::sqrt(1 + std::log(2) / std::log(25)));
  fields["factor"] = 25;
  EXPECT_DOUBLE_EQ(load(with({{"rope_parameters", fields}})).rope.attention_factor, std::sqrt(2));
  fields["attention_factor"] = 1.25;
  EXPECT_EQ(load(with({{"rope_parameters", fields}})).rope.attention_factor, 1.25);
}

TEST(LlamaConfig, TakesTheTrainedLengthBesideTheScalingFirst) {
  for (const char* const type : {"llama3", "yarn", "longrope"}) {
    json rope = {{"rope_type", type},
                 {"factor", 2},
                 {"low_freq_factor", 1},
                 {"high_freq_factor", 4},
                 {"short_factor", {1, 1, 1, 1}},
                 {"long_factor", {2, 2, 2, 2}},
                 {"original_max_position_embeddings", 30}};
    EXPECT_EQ(
        load(with({{"rope_parameters", rope}, {"original_max_position_embeddings", 20}})).rope.trained_length,
        20);
    EXPECT_EQ(load(with({{"rope_parameters", rope}})).rope.trained_length, 30);
    rope.erase("original_max_position_embeddings");
    EXPECT_EQ(load(with({{"rope_parameters", rope}})).rope.trained_length, 50);
  }
}

TEST(LlamaConfig, TakesEndTokensOfTheGenerationConfigFirst) {
  EXPECT_THAT(load(kLlama, {{"eos_token_id", {3, 5}}}).end_tokens, ElementsAre(3, 5));
  EXPECT_THAT(load(kLlama, {{"eos_token_id", nullptr}}).end_tokens, ElementsAre(7));
  EXPECT_THAT(load(with({{"eos_token_id", nullptr}})).end_tokens, IsEmpty());
}

TEST(LlamaConfig, RefusesAbsurdFieldsByName) {
  const auto refused = [](json changes, const std::string& fragment) {
    expect_throws(Errc::kInvalidArgument, HasSubstr(fragment), [&] { load(with(std::move(changes))); });
  };
  refused({{"model_type", "gpt2"}}, R"("model_type" is "gpt2", only llama, mistral and qwen2 are built)");
  refused({{"model_type", 5}}, R"("model_type" is 5, not a text)");
  refused({{"hidden_act", "gelu"}}, R"("hidden_act" is "gelu", only "silu" is built)");
  refused({{"vocab_size", 0}}, R"("vocab_size" is 0, not a size)");
  refused({{"vocab_size", -5}}, R"("vocab_size" is -5, not a size)");
  refused({{"hidden_size", 1e30}}, R"("hidden_size" is 1e+30, not a size)");
  refused({{"intermediate_size", 18446744073709551615u}}, R"("intermediate_size" is 18446744073709551615)");
  refused({{"num_hidden_layers", 0}}, R"("num_hidden_layers" is 0, not a size)");
  refused({{"num_hidden_layers", 1'000'000}}, R"("num_hidden_layers" is 1000000, more than 65536)");
  refused({{"num_attention_heads", 7}},
          R"("num_attention_heads" is 7, which does not divide the hidden size 64)");
  refused({{"num_key_value_heads", 3}}, R"("num_key_value_heads" is 3, which does not divide the 8 heads)");
  refused({{"head_dim", 7}}, R"("head_dim" is 7: rotary embeddings need pairs)");
  refused({{"head_dim", 1 << 24}}, R"("num_attention_heads" is 8, too many of size 16777216)");
  refused({{"rms_norm_eps", 0}}, R"("rms_norm_eps" is 0, not a positive number)");
  refused({{"rms_norm_eps", "small"}}, R"("rms_norm_eps" is "small", not a positive number)");
  refused({{"tie_word_embeddings", 1}}, R"("tie_word_embeddings" is 1, neither true nor false)");
  refused({{"eos_token_id", "</s>"}}, R"("eos_token_id" is "</s>", no token)");
  refused({{"rope_scaling", {{"type", "su"}, {"factor", 2}}}},
          R"("rope_scaling.type" is "su", only default)");
  refused({{"rope_scaling", {{"type", "linear"}}}}, R"("rope_scaling.factor" is missing)");
  refused({{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}}, R"("rope_scaling.factor" is below 1)");
  refused({{"rope_scaling", "linear"}}, R"("rope_scaling" is "linear", no object)");
  refused({{"rope_parameters", {{"partial_rotary_factor", 0.5}}}},
          R"("rope_parameters.partial_rotary_factor")");
  const json flat = {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 4}, {"high_freq_factor", 4}};
  refused({{"rope_parameters", flat}},
          R"("rope_parameters.high_freq_factor" is not above "low_freq_factor")");
  refused({{"head_dim", 2}, {"rope_scaling", {{"type", "dynamic"}, {"factor", 2}}}},
          R"("rope_scaling.type" needs heads larger than 2)");
  const auto yarn_refused = [&](json changes, const std::string& fragment) {
    json yarn = {{"rope_type", "yarn"}, {"factor", 2}};
    yarn.update(changes);
    refused({{"rope_parameters", yarn}}, R"("rope_parameters.)" + fragment);
  };
  yarn_refused({{"factor", 0.5}}, R"(factor" is below 1)");
  yarn_refused({{"original_max_position_embeddings", 0}}, R"(original_max_position_embeddings" is 0, not a)");
  yarn_refused({{"beta_fast", 1}, {"beta_slow", 2}}, R"(beta_fast" is below "beta_slow")");
  yarn_refused({{"beta_slow", -1}}, R"(beta_slow" is -1, not a positive number)");
  yarn_refused({{"mscale", "1"}}, R"(mscale" is "1", not a positive number)");
  yarn_refused({{"truncate", 0}}, R"(truncate" is 0, neither true nor false)");
  yarn_refused({{"attention_factor", 0}}, R"(attention_factor" is 0, not a positive number)");
  yarn_refused({{"rope_theta", 1}}, R"(rope_type" needs a "rope_theta" above 1, not 1)");
  refused({{"rope_parameters", {{"rope_type", "yarn"}, {"original_max_position_embeddings", 51}}}},
          R"("max_position_embeddings" is 50, below the 51 of the training)");
  const auto long_rope_refused = [&](json changes, const std::string& fragment) {
    json long_rope = kLongRope;
    long_rope.update(changes);
    refused({{"rope_parameters", long_rope}}, R"("rope_parameters.)" + fragment);
  };
  for (const json& wrong : {json(), json(2), json({1, 1, 1}), json({1, 1, 1, 0}), json({1, 1, 1, "1"})}) {
    long_rope_refused({{"short_factor", wrong}}, R"(short_factor" is no list of 4 positive numbers)");
    long_rope_refused({{"long_factor", wrong}}, R"(long_factor" is no list of 4 positive numbers)");
  }
  long_rope_refused({{"factor", 0.5}}, R"(factor" is below 1)");
  long_rope_refused({{"attention_factor", -1}}, R"(attention_factor" is -1, not a positive number)");
  long_rope_refused({{"original_max_position_embeddings", 1}}, R"(rope_type" needs "attention_factor" or)");
  refused({{"model_type", "qwen2"}, {"use_sliding_window", true}, {"sliding_window", 9}},
          R"("max_window_layers" is missing or not a number)");
  refused({{"model_type", "qwen2"},
           {"use_sliding_window", true},
           {"sliding_window", 9},
           {"layer_types", {"full_attention"}}},
          R"("layer_types" is no list of 3 types)");
  refused({{"model_type", "qwen2"},
           {"use_sliding_window", true},
           {"sliding_window", 9},
           {"layer_types", {"full_attention", "sliding_attention", "chunked_attention"}}},
          R"("layer_types" has "chunked_attention", which is not built)");
}

TEST(LlamaConfig, RefusesMissingFieldsByName) {
  for (const char* const name : {"model_type", "hidden_act", "vocab_size", "hidden_size", "intermediate_size",
                                 "num_hidden_layers", "num_attention_heads", "rms_norm_eps"}) {
    json fields = kLlama;
    fields.erase(name);
    expect_throws(Errc::kInvalidArgument, HasSubstr("\"" + std::string(name) + "\" is missing"),
                  [&] { load(fields); });
  }
}

TEST(LlamaConfig, RefusesWhatIsNoConfiguration) {
  const TemporaryDirectory directory;
  expect_throws(Errc::kOpenFailed, HasSubstr("config.json: cannot open"),
                [&] { LlamaConfig::load(directory.path()); });
  directory.write("config.json", bytes_of_text("[1, 2"));
  expect_throws(Errc::kInvalidArgument, HasSubstr("config.json: is no JSON object"),
                [&] { LlamaConfig::load(directory.path()); });
}

}  // namespace
}  // namespace tierstream::llama
