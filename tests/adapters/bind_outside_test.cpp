#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/adapters/torch/bind_outside.h>
#include <tierstream/io/error.h>

#include "adapters/tiny_model.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using testing::HasSubstr;

class BindOutside : public testing::Test {
 protected:
  Streamer stream(const Tensors& tensors) { return stream_tiny(write_checkpoint(directory_, tensors), 1); }

  TemporaryDirectory directory_;
  TinyModel model_{2};
};

TEST_F(BindOutside, GivesTheModuleTheStreamersMemory) {
  const TinyModel trained(2);
  Streamer streamer = stream(tensors_of(*trained));
  bind_outside(*model_, "encoder.layer", streamer);

  EXPECT_EQ(model_->head->weight.data_ptr(), streamer.outside("head.weight").data);
  EXPECT_TRUE(at::equal(model_->head->weight, trained->head->weight));
  EXPECT_TRUE(at::equal(model_->head->bias, trained->head->bias));
  EXPECT_FALSE(model_->head->weight.requires_grad());
}

TEST_F(BindOutside, LeavesLayersAlone) {
  const at::Tensor before = model_->layer(0)->linear->weight.detach().clone();
  Streamer streamer = stream(tensors_of(*TinyModel(2)));
  bind_outside(*model_, "encoder.layer", streamer);
  EXPECT_TRUE(at::equal(model_->layer(0)->linear->weight, before));
}

TEST_F(BindOutside, BindsBuffersThatTheCheckpointHasAndKeepsTheOthers) {
  Tensors tensors = tensors_of(*model_);
  tensors["steps"] = torch::tensor({7}, torch::kLong);
  const at::Tensor steps = model_->register_buffer("steps", torch::zeros({1}, torch::kLong));
  const at::Tensor positions = model_->register_buffer("positions", torch::arange(5));
  Streamer streamer = stream(tensors);
  bind_outside(*model_, "encoder.layer", streamer);

  EXPECT_EQ(steps.item<std::int64_t>(), 7);
  EXPECT_TRUE(at::equal(positions, torch::arange(5)));
}

TEST_F(BindOutside, LoadsAWeightThatStandsInTwoPlacesByEitherName) {
  Tensors tensors = tensors_of(*model_);
  model_->register_module("embedding", torch::nn::Linear(model_->head));  // the same module once more
  Streamer streamer = stream(tensors);
  bind_outside(*model_, "encoder.layer", streamer);
  EXPECT_TRUE(at::equal(model_->head->weight, tensors["head.weight"]));
}

TEST_F(BindOutside, FindsRenamedWeights) {
  Tensors tensors = tensors_of(*model_);
  for (const char* name : {"weight", "bias"}) {
    tensors.insert({"lm_head." + std::string(name), tensors.extract("head." + std::string(name)).mapped()});
  }
  Streamer streamer = stream(tensors);
  bind_outside(*model_, "encoder.layer", streamer,
               {.rename = [](std::string_view name) { return "lm_" + std::string(name); }});
  EXPECT_TRUE(at::equal(model_->head->weight, tensors["lm_head.weight"]));
}

TEST_F(BindOutside, ReportsAllThatDiffersAndLeavesTheModuleAsItWas) {
  Tensors tensors = tensors_of(*model_);
  tensors.erase("head.bias");
  tensors["head.weight"] = torch::zeros({2, 3});
  tensors["pooler"] = torch::zeros({1}, torch::kLong);
  const at::Tensor before = model_->head->weight.detach().clone();
  Streamer streamer = stream(tensors);

  EXPECT_EQ(
      thrown_by([&] { bind_outside(*model_, "encoder.layer", streamer); }),
      (Thrown{Errc::kWeightMismatch,
              "the checkpoint does not fit the module: 1 missing in the checkpoint (head.bias), 1 unknown "
              "to the module (pooler), 1 of other shape or dtype (head.weight: [48, 48] Float in the "
              "module, [2, 3] F32 in the checkpoint)"}));
  EXPECT_TRUE(at::equal(model_->head->weight, before));
  EXPECT_TRUE(model_->head->weight.requires_grad());
}

TEST_F(BindOutside, IgnoresTensorsUnknownToTheModuleWhenAsked) {
  Tensors tensors = tensors_of(*model_);
  tensors["pooler"] = torch::zeros({1});
  Streamer streamer = stream(tensors);
  EXPECT_EQ(thrown_by([&] { bind_outside(*model_, "encoder.layer", streamer); }).errc, Errc::kWeightMismatch);
  bind_outside(*model_, "encoder.layer", streamer, {.allow_unexpected = true});
  EXPECT_TRUE(at::equal(model_->head->weight, tensors["head.weight"]));
}

TEST(WeightReport, CutsLongListsToWhatAPersonReads) {
  WeightReport report;
  for (int i = 0; i < 100; ++i) report.missing.push_back("w" + std::to_string(i));
  EXPECT_EQ(describe(report), "100 missing in the checkpoint (w0; w1; w2; w3; w4; and 95 more)");
}

}  // namespace
}  // namespace tierstream
