// Streamed weights that change between passes, against the same model changed while it is resident.
#include <gtest/gtest.h>
#include <tierstream/adapters/torch/lora.h>
#include <tierstream/adapters/torch/streamed_model.h>
#include <torch/nn.h>

#include <cmath>
#include <optional>
#include <regex>
#include <span>
#include <string>

#include "adapters/tiny_model.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using testing::HasSubstr;

constexpr std::size_t kLayers = 4;
constexpr const char* kPath = "encoder.layer";
constexpr std::int64_t kRank = 4;
constexpr std::uint64_t kPinnedBytes = 16u << 20;

/// Room for what the model keeps, two LoRAs and a slot, and not for all layers.
constexpr std::uint64_t kGpuBytes = 70'000;
const Budget kBudget{.gpu = kGpuBytes, .pinned = kPinnedBytes};

struct Source {
  const char* name;
  at::ScalarType stored;
  bool in_ram;  ///< the module's own weights, not a checkpoint's
};

/// With weights in the module's dtype, in another one, which is converted, and in RAM.
class HotWeights : public testing::TestWithParam<Source> {
 protected:
  void SetUp() override {
    trained_->to(GetParam().stored);
    const Checkpoint checkpoint = write_checkpoint(directory_, tensors_of(*trained_));
    trained_->to(at::kFloat);
    if (!GetParam().in_ram) return start(checkpoint);
    const Tensors trained = tensors_of(*trained_);
    for (auto& item : model_->named_parameters()) item.value().set_data(trained.at(item.key()));
    streamed_.emplace(stream(*model_, kPath, {.streaming = {.budget = kBudget, .max_slots = 1}}));
  }
  void start(const Checkpoint& checkpoint) {
    streamed_.emplace(stream(*model_, kPath, checkpoint, {.streaming = {.budget = kBudget, .max_slots = 1}}));
  }
  at::Tensor run() {
    EXPECT_GT(streamed_->streamer().plan().streamed_layers(), 0u);
    return model_->forward(some_input(), streamed_->layers<TinyLayerImpl>());
  }
  at::Tensor expected() { return trained_->forward_resident(some_input()); }
  at::Tensor trained_weight(std::size_t layer) { return trained_->layer(layer)->linear->weight.detach(); }
  std::uint64_t used_bytes() {
    return streamed_->streamer().plan().used.gpu + 2 * streamed_->binding().landing_bytes() +
           streamed_->binding().lora_bytes();
  }

  TemporaryDirectory directory_;
  TinyModel trained_{kLayers};
  TinyModel model_{kLayers};
  std::optional<StreamedModel> streamed_;
};
INSTANTIATE_TEST_SUITE_P(Stored, HotWeights,
                         testing::Values(Source{"Float", at::kFloat, false},
                                         Source{"BFloat16", at::kBFloat16, false},
                                         Source{"InRam", at::kFloat, true}),
                         [](const auto& parameter) { return parameter.param.name; });

TEST_P(HotWeights, AreUpdatedForAllLaterPasses) {
  EXPECT_TRUE(at::equal(run(), expected()));
  for (int round = 0; round < 3; ++round) {
    const at::Tensor weight = torch::rand({kWidth, kWidth});
    const at::Tensor bias = torch::rand({kWidth});
    const std::array updates{WeightUpdate{1, "linear.weight", weight}, WeightUpdate{3, "norm.bias", bias}};
    streamed_->update(updates);
    trained_weight(1).copy_(weight);
    trained_->layer(3)->norm->bias.detach().copy_(bias);
    for (int pass = 0; pass < 2; ++pass) EXPECT_TRUE(at::equal(run(), expected()));
    EXPECT_TRUE(at::equal(model_->layer(1)->linear->weight, weight));
  }
  streamed_->close();
  EXPECT_TRUE(at::equal(model_->forward_resident(some_input()), expected()));
}

TEST_P(HotWeights, AreCopiedFromTheUpdate) {
  at::Tensor weight = torch::rand({kWidth, kWidth});
  trained_weight(0).copy_(weight);
  streamed_->update(0, "linear.weight", weight);
  weight.zero_();
  EXPECT_TRUE(at::equal(run(), expected()));
}

TEST_P(HotWeights, RefuseUpdatesThatDoNotFitAndChangeNothing) {
  const at::Tensor weight = torch::rand({kWidth, kWidth});
  EXPECT_EQ(
      thrown_by([&] { streamed_->update(1, "linear.gate", weight); }),
      (Thrown{
          Errc::kTensorMissing,
          "tensor \"encoder.layer.1.linear.gate\": is not streamed: what stays on the device is written to "
          "where it is"}));
  EXPECT_EQ(
      thrown_by([&] { streamed_->update(1, "linear.bias", weight); }),
      (Thrown{Errc::kWeightMismatch,
              "tensor \"encoder.layer.1.linear.bias\": the weight has the shape [48], the update [48, 48]"}));
  EXPECT_EQ(thrown_by([&] { streamed_->update(9, "linear.bias", weight); }).errc, Errc::kInvalidArgument);
  {
    const auto layer = streamed_->layers<TinyLayerImpl>().acquire(2);
    EXPECT_EQ(thrown_by([&] { streamed_->update(1, "linear.weight", weight); }),
              (Thrown{Errc::kLeasesOutstanding, "encoder.layer.2 is leased; end the lease first"}));
  }
  EXPECT_TRUE(at::equal(run(), expected()));
}

Lora some_lora() {
  const auto change = [](std::size_t layer, double scaling) {
    return LoraWeight{"encoder.layer." + std::to_string(layer) + ".linear.weight",
                      torch::rand({kRank, kWidth}), torch::rand({kWidth, kRank}), scaling};
  };
  return {{change(0, 2), change(2, 0.5)}};
}

void change(TinyModelImpl& model, const Lora& lora, double strength) {
  for (std::size_t i = 0; i < 2; ++i) {
    const LoraWeight& weight = lora.weights[i];
    model.layer(2 * i)->linear->weight.detach().addmm_(weight.b, weight.a, 1, strength * weight.scaling);
  }
}

TEST_P(HotWeights, TakeLorasOnLandingAndLoseThemAgain) {
  const at::Tensor plain = expected();
  const Lora first = some_lora();
  const Lora second = some_lora();
  const std::uint64_t before = used_bytes();

  const auto first_id = streamed_->add_lora(first, 0.7);
  change(*trained_, first, 0.7);
  for (int pass = 0; pass < 2; ++pass) EXPECT_TRUE(at::equal(run(), expected()));
  EXPECT_FALSE(at::equal(run(), plain));
  EXPECT_GT(streamed_->binding().lora_bytes(), 0u);
  EXPECT_LE(used_bytes(), kGpuBytes);

  const auto second_id = streamed_->add_lora(second);
  change(*trained_, second, 1);
  EXPECT_TRUE(at::equal(run(), expected()));

  streamed_->remove_lora(second_id);
  streamed_->remove_lora(first_id);
  for (int pass = 0; pass < 2; ++pass) EXPECT_TRUE(at::equal(run(), plain));
  EXPECT_EQ(used_bytes(), before);
}

TEST_P(HotWeights, TakeALoraOfNoStrengthForNothing) {
  const at::Tensor plain = expected();
  const std::uint64_t before = used_bytes();
  const auto id = streamed_->add_lora(some_lora(), 0);
  EXPECT_EQ(used_bytes(), before);
  EXPECT_TRUE(at::equal(run(), plain));
  streamed_->remove_lora(id);
  Lora unlike = some_lora();
  unlike.weights[0].a = torch::rand({kRank, 3});
  EXPECT_EQ(thrown_by([&] { streamed_->add_lora(unlike, 0); }).errc, Errc::kWeightMismatch);
}

TEST_P(HotWeights, ShowAndGiveBackTheWeightsWithoutTheLora) {
  const at::Tensor plain = expected();
  streamed_->add_lora(some_lora());
  EXPECT_TRUE(at::equal(model_->layer(0)->linear->weight.to(at::kFloat), trained_weight(0)));
  streamed_->close();
  EXPECT_TRUE(at::equal(model_->forward_resident(some_input()), plain));
}

TEST_P(HotWeights, GiveBackTheWeightsWithoutTheLoraWhereStorageIsNoLocalFile) {
  streamed_->close();
  start(open_in_memory(directory_));
  const at::Tensor plain = expected();
  const Lora lora = some_lora();
  streamed_->add_lora(lora);
  change(*trained_, lora, 1);
  EXPECT_TRUE(at::equal(run(), expected()));
  streamed_->close();
  EXPECT_TRUE(at::equal(model_->forward_resident(some_input()), plain));
}

TEST_P(HotWeights, TakeALoraOverAnUpdate) {
  const Lora lora = some_lora();
  const at::Tensor weight = torch::rand({kWidth, kWidth});
  streamed_->add_lora(lora);
  streamed_->update(2, "linear.weight", weight);
  trained_weight(2).copy_(weight);
  change(*trained_, lora, 1);
  EXPECT_TRUE(at::equal(run(), expected()));
}

TEST_P(HotWeights, RefuseALoraThatDoesNotFitAndChangeNothing) {
  Lora lora = some_lora();
  lora.weights[1].name = "encoder.layer.7.linear.weight";
  EXPECT_EQ(thrown_by([&] { streamed_->add_lora(lora); }),
            (Thrown{Errc::kWeightMismatch,
                    "the LoRA does not fit the streamed weights: 1 not streamed "
                    "(encoder.layer.7.linear.weight)"}));
  if (!GetParam().in_ram) {
    lora.weights[1].name = "head.weight";
    EXPECT_THAT(thrown_by([&] { streamed_->add_lora(lora); }).what,
                HasSubstr("1 not streamed (head.weight: lies outside the layers)"));
  }
  lora = some_lora();
  lora.weights[0].a = torch::rand({kRank, 3});
  EXPECT_EQ(thrown_by([&] { streamed_->add_lora(lora); }),
            (Thrown{Errc::kWeightMismatch,
                    "the LoRA does not fit the streamed weights: 1 of other shape or dtype "
                    "(encoder.layer.0.linear.weight: [48, 48] Float in the module, B [48, 4] and A [4, 3] in "
                    "the LoRA)"}));
  lora = some_lora();
  lora.weights[0].a = torch::rand({kRank + 1, kWidth});  // B has another rank
  EXPECT_EQ(thrown_by([&] { streamed_->add_lora(lora); }).errc, Errc::kWeightMismatch);
  lora.weights[0].a = torch::rand({kRank, kWidth, 1});
  EXPECT_EQ(thrown_by([&] { streamed_->add_lora(lora); }).errc, Errc::kWeightMismatch);
  lora.weights[0].a = torch::rand({kWidth});
  EXPECT_EQ(thrown_by([&] { streamed_->add_lora(lora); }).errc, Errc::kWeightMismatch);
  lora.weights[0].a = at::Tensor();
  EXPECT_EQ(thrown_by([&] { streamed_->add_lora(lora); }).errc, Errc::kWeightMismatch);
  EXPECT_EQ(streamed_->binding().lora_bytes(), 0u);
  EXPECT_TRUE(at::equal(run(), expected()));
}

/// Its matrices cannot be copied to the device.
Lora without_data(std::int64_t rank) {
  Lora lora = some_lora();
  lora.weights[1].a = torch::empty({rank, kWidth}, torch::kMeta);
  lora.weights[1].b = torch::empty({kWidth, rank}, torch::kMeta);
  return lora;
}

TEST_P(HotWeights, RefuseALoraThatFitsInNoBudgetBeforeItTakesMemory) {
  const std::uint64_t before = used_bytes();
  const auto add = [&] { streamed_->add_lora(without_data(10'000)); };
  const Thrown refusal = thrown_by(add);
  EXPECT_EQ(refusal.errc, Errc::kBudgetTooSmall);
  EXPECT_EQ(used_bytes(), before);
  // What it says is what it takes.
  std::smatch found;
  const std::regex words(
      "with this LoRA, gpu needs at least \\d+MiB \\((\\d+) bytes\\), has .*; its matrices, .*");
  ASSERT_TRUE(std::regex_search(refusal.what, found, words)) << refusal.what;
  const std::uint64_t least = std::stoull(found[1]);
  streamed_->set_budget({.gpu = least - 1, .pinned = kPinnedBytes});
  EXPECT_EQ(thrown_by(add).errc, Errc::kBudgetTooSmall);
  streamed_->set_budget({.gpu = least, .pinned = kPinnedBytes});
  EXPECT_THROW(add(), c10::Error) << "its matrices have no data to copy";
  streamed_->set_budget(kBudget);
  EXPECT_TRUE(at::equal(run(), expected()));
}

TEST_P(HotWeights, AreAsBeforeAfterALoraWhoseMatricesCouldNotBeCopied) {
  const std::uint64_t before = used_bytes();
  EXPECT_THROW(streamed_->add_lora(without_data(kRank)), c10::Error);
  EXPECT_EQ(streamed_->binding().lora_bytes(), 0u);
  EXPECT_EQ(used_bytes(), before);
  EXPECT_TRUE(at::equal(run(), expected()));
}

// --- Files ---

class LoraFile : public testing::Test {
 protected:
  void write(const std::string& config, const Tensors& tensors) {
    directory_.write("adapter_config.json", std::as_bytes(std::span(config)));
    write_checkpoint(directory_, tensors);
    std::filesystem::rename(directory_.path("model.safetensors"),
                            directory_.path("adapter_model.safetensors"));
  }
  Thrown thrown() {
    return thrown_by([&] { Lora::open(directory_.path()); });
  }

  static constexpr const char* kModule = "base_model.model.encoder.layer.0.linear";
  TemporaryDirectory directory_;
  Tensors tensors_{{std::string(kModule) + ".lora_A.weight", torch::rand({kRank, kWidth})},
                   {std::string(kModule) + ".lora_B.weight", torch::rand({kWidth, kRank})}};
};

TEST_F(LoraFile, InTheLayoutOfPeftIsRead) {
  write(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "bias": "none", "use_dora": false,
            "init_lora_weights": "gaussian", "modules_to_save": null, "target_modules": ["linear"]})",
        tensors_);
  const Lora lora = Lora::open(directory_.path());
  ASSERT_EQ(lora.weights.size(), 1u);
  EXPECT_EQ(lora.weights[0].name, "encoder.layer.0.linear.weight");
  EXPECT_EQ(lora.weights[0].scaling, 3);
  EXPECT_TRUE(at::equal(lora.weights[0].a, tensors_.begin()->second));
  EXPECT_TRUE(at::equal(lora.weights[0].b, tensors_.rbegin()->second));
}

TEST_F(LoraFile, ScalesByTheRootOfTheRankAndByPatternsWhereItSaysSo) {
  write(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "use_rslora": true})", tensors_);
  EXPECT_EQ(Lora::open(directory_.path()).weights[0].scaling, 6);
  write(R"({"peft_type": "LORA", "r": 8, "lora_alpha": 12, "rank_pattern": {"layer.0.linear": 4},
            "alpha_pattern": {"layer.[1-9].linear": 1, ".*linear": 2}})",
        tensors_);
  EXPECT_EQ(Lora::open(directory_.path()).weights[0].scaling, 0.5);
}

TEST_F(LoraFile, ThatAsksForMoreIsRefused) {
  const auto refusal = [&](const std::string& config) {
    write(config, tensors_);
    return thrown().what;
  };
  EXPECT_THAT(refusal("{"), HasSubstr("adapter_config.json: is not a JSON object"));
  EXPECT_THAT(refusal(R"({"peft_type": "IA3"})"),
              HasSubstr("has peft_type \"IA3\"; only \"LORA\" can be applied"));
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 1, "use_dora": true})"),
              HasSubstr("asks for DoRA (use_dora); only LoRA itself can be applied"));
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 1, "modules_to_save": ["head"]})"),
              HasSubstr("asks for modules that were trained as a whole (modules_to_save)"));
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 1, "layer_replication": [[0, 2]]})"),
              HasSubstr("asks for layers that are repeated (layer_replication)"));
  EXPECT_THAT(
      refusal(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 1, "init_lora_weights": "pissa"})"),
      HasSubstr(
          "asks for \"pissa\", which changes the model's own weights at its beginning (init_lora_weights)"));
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 1, "bias": "all"})"),
              HasSubstr("asks for trained biases (bias)"));
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "r": 0, "lora_alpha": 1})"),
              HasSubstr("has an r or lora_alpha that is no usable number"));
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 1, "rank_pattern": {"(": 1}})"),
              HasSubstr("has a pattern that is no regular expression: ("));
  tensors_[std::string(kModule) + ".lora_magnitude_vector"] = torch::rand({kWidth});
  EXPECT_THAT(refusal(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 1})"),
              HasSubstr("is not the A or B of a linear layer"));
}

TEST_F(LoraFile, WithoutAPartIsRefused) {
  tensors_.erase(tensors_.begin());
  write(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 1})", tensors_);
  EXPECT_THAT(thrown().what, HasSubstr("has no A and B of one rank"));
  std::filesystem::remove(directory_.path("adapter_config.json"));
  EXPECT_EQ(thrown().errc, Errc::kOpenFailed);
}

}  // namespace
}  // namespace tierstream
