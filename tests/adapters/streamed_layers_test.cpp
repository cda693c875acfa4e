#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/adapters/torch/streamed_model.h>
#include <tierstream/io/error.h>

#include <cmath>
#include <optional>
#include <stdexcept>

#include "adapters/tiny_model.h"
#include "support/allocations.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

constexpr std::size_t kLayers = 5;
constexpr const char* kPath = "encoder.layer";

/// A trained model, its checkpoint, and a fresh model that computes with the checkpoint's weights. Runs with
/// reads that land in the slots (true) and with all bytes through the ring (false).
class StreamedLayersTest : public testing::TestWithParam<bool> {
 protected:
  /// `prepare` changes both models alike before the checkpoint is written.
  template <class Prepare>
  void start(std::uint32_t slots, Prepare&& prepare) {
    prepare(*trained_);
    prepare(*model_);
    LayerTable table = write_checkpoint(directory_, tensors_of(*trained_)).layers(kPath);
    std::uint64_t model_bytes = 0;
    for (const at::Tensor& buffer : model_->buffers()) model_bytes += buffer.nbytes();
    StreamerOptions streaming = tiny_streaming(table, slots, GetParam(), model_bytes + shared_bytes_);
    streamed_.emplace(stream(*model_, kPath, std::move(table), {.streaming = std::move(streaming)}));
    layers_.emplace(streamed_->layers<TinyLayerImpl>());
    streamer_ = &streamed_->streamer();
  }
  void start(std::uint32_t slots) {
    start(slots, [](TinyModelImpl&) {});
  }

  bool holds_trained_weights(std::size_t layer) const {
    return at::equal(model_->layer(layer)->linear->weight, trained_->layer(layer)->linear->weight) &&
           at::equal(model_->layer(layer)->norm->bias, trained_->layer(layer)->norm->bias);
  }
  /// Shows its weights where they lie in the file.
  bool is_unbound(std::size_t layer) const {
    return model_->layer(layer)->linear->weight.data_ptr() == unbound_.at(layer);
  }
  void note_unbound() {
    for (std::size_t i = 0; i < kLayers; ++i) unbound_.push_back(model_->layer(i)->linear->weight.data_ptr());
  }

  TemporaryDirectory directory_;
  TinyModel trained_{kLayers};
  TinyModel model_{kLayers};
  std::uint64_t shared_bytes_ = 0;
  std::optional<StreamedModel> streamed_;
  std::optional<StreamedLayers<TinyLayerImpl>> layers_;
  Streamer* streamer_ = nullptr;
  std::vector<const void*> unbound_;
};

INSTANTIATE_TEST_SUITE_P(BothLandings, StreamedLayersTest, testing::Bool(), [](const auto& parameter) {
  return parameter.param ? "ReadsLand" : "ThroughTheRing";
});

TEST_P(StreamedLayersTest, ComputeTheBitsOfTheResidentModelAtEveryNumberOfSlots) {
  const at::Tensor expected = trained_->forward_resident(some_input());
  for (std::uint32_t slots = 1; slots <= kLayers; ++slots) {
    start(slots);
    for (int pass = 0; pass < 3; ++pass) {
      EXPECT_TRUE(at::equal(model_->forward(some_input(), *layers_), expected))
          << slots << " slots, pass " << pass;
    }
    streamed_.reset();
  }
}

TEST_P(StreamedLayersTest, MoveEveryLayerInEveryPass) {
  start(2);
  std::uint64_t layer_bytes = 0;
  for (const Layer& layer : streamer_->table().layers) layer_bytes += layer.bytes();
  for (std::uint64_t pass = 1; pass <= 3; ++pass) {
    model_->forward(some_input(), *layers_);
    const StreamerStats stats = streamer_->stats();
    EXPECT_EQ(stats.passes, pass);
    EXPECT_EQ(stats.last_pass.layers, kLayers);
    // The file was just written: some of it may be read from the page cache.
    EXPECT_GE(stats.last_pass.bytes.disk + stats.last_pass.bytes.page_cache, layer_bytes);
  }
}

TEST_P(StreamedLayersTest, AllocateNothingInASteadyPass) {
  start(1);  // with more, it may take many passes until every layer has been in every slot
  model_->forward(some_input(), *layers_);

  std::size_t first = 0;
  std::size_t last = 0;
  for (auto&& layer : *layers_) {
    if (layer.index() == 0) first = allocations_of_this_thread();
    last = allocations_of_this_thread();
  }
  EXPECT_EQ(last - first, 0u);
}

TEST_P(StreamedLayersTest, AllocateViewsOnlyTheFirstTimeALayerIsInASlot) {
  start(1);
  const std::size_t before = allocations_of_this_thread();
  layers_->acquire(0);
  const std::size_t between = allocations_of_this_thread();
  layers_->acquire(0);
  EXPECT_GT(between - before, 0u);
  EXPECT_EQ(allocations_of_this_thread() - between, 0u);
}

TEST_P(StreamedLayersTest, ComputeFromSlotsWhileLeasedAndShowTheFileBetween) {
  start(2);
  note_unbound();
  for (auto&& layer : *layers_) {
    for (std::size_t i = 0; i < kLayers; ++i) {
      EXPECT_EQ(is_unbound(i), i != layer.index());
      EXPECT_TRUE(holds_trained_weights(i));
    }
    EXPECT_EQ(layer->linear->weight.data_ptr(), layer.lease()["linear.weight"].data);
    EXPECT_FALSE(layer->linear->weight.requires_grad());
  }
  EXPECT_TRUE(is_unbound(kLayers - 1));
}

TEST_P(StreamedLayersTest, ReachEveryHandleToAParameter) {
  start(1);
  const at::Tensor kept_by_user = model_->layer(3)->linear->weight;
  const auto layer = layers_->acquire(3);
  EXPECT_EQ(kept_by_user.data_ptr(), model_->named_parameters()["encoder.layer.3.linear.weight"].data_ptr());
  EXPECT_EQ(kept_by_user.data_ptr(), layer.lease()["linear.weight"].data);
}

TEST_P(StreamedLayersTest, MayBeTakenInAnyOrderSkippedAndRepeated) {
  start(2);
  for (const std::size_t index : {3u, 0u, 3u, 3u, 4u, 1u}) {
    const auto layer = layers_->acquire(index);
    EXPECT_EQ(layer.index(), index);
    EXPECT_TRUE(holds_trained_weights(index));
  }
  EXPECT_EQ(streamer_->stats().total.layers, 6u);
}

TEST_P(StreamedLayersTest, StayBoundUntilTheLastLeaseOfALayerEnds) {
  start(1);
  note_unbound();
  auto first = std::make_optional(layers_->acquire(2));
  {
    const auto second = layers_->acquire(2);
    first.reset();
    EXPECT_EQ(model_->layer(2)->linear->weight.data_ptr(), second.lease()["linear.weight"].data);
  }
  EXPECT_TRUE(is_unbound(2));
}

TEST_P(StreamedLayersTest, EndTheLeaseAndThePassWhenForwardThrows) {
  start(1);
  note_unbound();
  const auto fail_in = [&](std::size_t index) {
    for (auto&& layer : *layers_) {
      if (layer.index() == index) throw std::runtime_error("from forward");
    }
  };
  for (std::size_t i = 0; i < kLayers; ++i) {
    EXPECT_THROW(fail_in(i), std::runtime_error);
    EXPECT_TRUE(is_unbound(i));
  }
  EXPECT_EQ(streamer_->stats().passes, kLayers);
  // With a single slot, a lease left behind would refuse every other layer.
  EXPECT_TRUE(at::equal(model_->forward(some_input(), *layers_), trained_->forward_resident(some_input())));
}

TEST_P(StreamedLayersTest, MayBeLeftEarly) {
  start(2);
  for (auto&& layer : *layers_) {
    if (layer.index() == 1) break;
  }
  EXPECT_EQ(streamer_->stats().last_pass.layers, 2u);
  EXPECT_TRUE(at::equal(model_->forward(some_input(), *layers_), trained_->forward_resident(some_input())));
}

TEST_P(StreamedLayersTest, RunInInferenceModeAndOutOfItInTurn) {
  start(2);
  const at::Tensor expected = trained_->forward_resident(some_input());
  for (const bool inference : {true, false, true}) {
    const c10::InferenceMode mode(inference);
    EXPECT_TRUE(at::equal(model_->forward(some_input(), *layers_), expected));
    const auto layer = layers_->acquire(0);
    EXPECT_FALSE(layer->linear->weight.is_inference());
  }
}

TEST_P(StreamedLayersTest, KeepWhatForwardWritesIntoBuffers) {
  start(1, [](TinyModelImpl& model) {
    for (std::size_t i = 0; i < kLayers; ++i) {
      model.layer(i)->register_buffer("calls", torch::full({1}, 10.0f + static_cast<float>(i)));
      model.layer(i)->register_buffer("scratch", torch::zeros({1}));
    }
  });
  for (int pass = 0; pass < 3; ++pass) {
    for (auto&& layer : *layers_) {
      for (const at::Tensor& buffer : layer->buffers()) buffer.add_(1);
    }
  }
  for (std::size_t i = 0; i < kLayers; ++i) {
    const auto buffers = model_->layer(i)->named_buffers();
    EXPECT_EQ(buffers["calls"].item<float>(), 13.0f + static_cast<float>(i));
    EXPECT_EQ(buffers["scratch"].item<float>(), 3.0f);
  }
}

TEST_P(StreamedLayersTest, KeepWeightsThatSeveralLayersShare) {
  shared_bytes_ = 2 * kWidth * sizeof(float);
  start(1, [](TinyModelImpl& model) {
    model.layer(1)->norm = model.layer(1)->replace_module("norm", model.layer(4)->norm);
  });
  const auto layer = layers_->acquire(1);
  EXPECT_TRUE(at::equal(layer->norm->weight, trained_->layer(1)->norm->weight));
  EXPECT_NE(layer->norm->weight.data_ptr(), layer.lease()["norm.weight"].data);
  EXPECT_TRUE(at::equal(model_->layer(4)->norm->weight, layer->norm->weight));
}

class StreamedLayersMismatch : public testing::Test {
 protected:
  StreamedModel stream_model(const Tensors& tensors, BindOptions binding = {}) {
    LayerTable table = write_checkpoint(directory_, tensors).layers(kPath);
    StreamerOptions streaming = tiny_streaming(table, 1);
    return stream(*model_, kPath, std::move(table),
                  {.streaming = std::move(streaming), .binding = std::move(binding)});
  }
  Thrown thrown_for(const Tensors& tensors) {
    return thrown_by([&] { stream_model(tensors); });
  }

  TemporaryDirectory directory_;
  TinyModel model_{2};
};

TEST_F(StreamedLayersMismatch, IsReportedInFullAndLeavesTheModuleAsItWas) {
  Tensors tensors = tensors_of(*model_);
  tensors.erase("head.bias");
  tensors.erase("encoder.layer.0.norm.bias");
  tensors["head.weight"] = torch::zeros({2, 3});
  tensors["encoder.layer.1.linear.bias"] = torch::zeros({kWidth}, torch::kLong);
  tensors["pooler"] = torch::zeros({1}, torch::kLong);
  tensors["encoder.layer.1.gate"] = torch::zeros({1});
  EXPECT_EQ(
      thrown_for(tensors),
      (Thrown{
          Errc::kWeightMismatch,
          "the checkpoint does not fit the module: 2 missing in the checkpoint (head.bias: [48] Float; "
          "encoder.layer.0.norm.bias: [48] Float), 2 unknown to the module (pooler: [1] I64; "
          "encoder.layer.1.gate: [1] F32), 2 of other shape or dtype (head.weight: [48, 48] Float in the "
          "module, [2, 3] F32 in the checkpoint; encoder.layer.1.linear.bias: [48] Float in the module, [48] "
          "I64 in the checkpoint)"}));
  EXPECT_TRUE(at::equal(model_->layer(0)->linear->weight, tensors["encoder.layer.0.linear.weight"]));
  EXPECT_TRUE(model_->head->weight.requires_grad());
  EXPECT_TRUE(model_->layer(0)->linear->weight.requires_grad());
}

TEST_F(StreamedLayersMismatch, InTheNumberOfLayersNamesBothAndWhatElseDiffers) {
  Tensors tensors = tensors_of(*TinyModel(3));
  tensors.erase("encoder.layer.0.norm.bias");
  EXPECT_EQ(
      thrown_for(tensors),
      (Thrown{Errc::kWeightMismatch,
              "the checkpoint does not fit the module: the module has 2 layers, the checkpoint 3, 1 missing "
              "in the checkpoint (encoder.layer.0.norm.bias: [48] Float), 4 unknown to the module "
              "(encoder.layer.2.linear.bias: [48] F32; encoder.layer.2.linear.weight: [48, 48] F32; "
              "encoder.layer.2.norm.bias: [48] F32; encoder.layer.2.norm.weight: [48] F32)"}));
  EXPECT_EQ(thrown_by([&] { stream_model(tensors, {.allow_unexpected = true, .allow_missing = true}); }).errc,
            Errc::kWeightMismatch);
  const Thrown fewer = thrown_for(tensors_of(*TinyModel(1)));
  EXPECT_THAT(fewer.what, testing::HasSubstr("the module has 2 layers, the checkpoint 1, 4 missing"));
  EXPECT_THAT(fewer.what, testing::HasSubstr("encoder.layer.1.linear.weight: [48, 48] Float"));
}

TEST_F(StreamedLayersMismatch, GivesProgramsAllThatDiffers) {
  Tensors tensors = tensors_of(*model_);
  for (int i = 0; i < 100; ++i) tensors["more." + std::to_string(i)] = torch::zeros({i});
  tensors.erase("head.bias");
  try {
    stream_model(tensors);
    FAIL() << "nothing was thrown";
  } catch (const WeightMismatch& mismatch) {
    const WeightReport& report = mismatch.report();
    ASSERT_EQ(report.unexpected.size(), 100u);
    ASSERT_EQ(report.missing.size(), 1u);
    EXPECT_EQ(report.missing[0].name, "head.bias");
    EXPECT_EQ(report.missing[0].what, "[48] Float");
    EXPECT_TRUE(report.unlike.empty());
  }
}

TEST_F(StreamedLayersMismatch, InTheTypeOfABlockNamesTheBlock) {
  const StreamedModel streamed = stream_model(tensors_of(*model_));
  EXPECT_EQ(thrown_by([&] { streamed.layers<torch::nn::LinearImpl>(); }),
            (Thrown{Errc::kWrongModuleType,
                    "\"encoder.layer.0\" is a tierstream::TinyLayerImpl, not a torch::nn::LinearImpl"}));
}

TEST_F(StreamedLayersMismatch, IsNoneWhenUnknownTensorsAreAllowed) {
  Tensors tensors = tensors_of(*model_);
  tensors["pooler"] = torch::zeros({1});
  EXPECT_EQ(thrown_for(tensors).errc, Errc::kWeightMismatch);
  const StreamedModel streamed = stream_model(tensors, {.allow_unexpected = true});
  EXPECT_TRUE(at::equal(model_->head->weight, tensors["head.weight"]));
}

TEST_F(StreamedLayersMismatch, IsNoneWhenNamesAreMapped) {
  Tensors tensors;
  for (const auto& [name, tensor] : tensors_of(*TinyModel(2))) tensors[name + "_v2"] = tensor;
  const StreamedModel streamed =
      stream_model(tensors, {.rename = [](std::string_view name) { return std::string(name) + "_v2"; }});
  const auto layer = streamed.layers<TinyLayerImpl>().acquire(1);
  EXPECT_TRUE(at::equal(layer->linear->weight, tensors["encoder.layer.1.linear.weight_v2"]));
  EXPECT_TRUE(at::equal(model_->head->weight, tensors["head.weight_v2"]));
}

TEST_F(StreamedLayersMismatch, SaysByWhatNameAWeightWasLookedFor) {
  const auto rename = [](std::string_view name) { return std::string(name) + "_v2"; };
  EXPECT_THAT(thrown_by([&] { stream_model(tensors_of(*model_), {.rename = rename}); }).what,
              testing::HasSubstr("10 missing in the checkpoint (head.weight: [48, 48] Float, looked for as "
                                 "head.weight_v2; head.bias: "));
}

TEST_F(StreamedLayersMismatch, IsNoneWhenTheCheckpointHasTheListElsewhere) {
  Tensors tensors;
  for (const auto& [name, tensor] : tensors_of(*TinyModel(2))) {
    tensors[name.starts_with("encoder.") ? "model." + name : "lm_" + name] = tensor;
  }
  const Checkpoint checkpoint = write_checkpoint(directory_, tensors);
  const StreamedModel streamed =
      stream(*model_, kPath, checkpoint,
             {.streaming = tiny_streaming(checkpoint.layers("model.encoder.layer"), 1),
              .binding = {.rename_outside = rename_prefixes({{"norm.", "model.norm."}, {"", "lm_"}})},
              .rename_layers = rename_prefixes({{"", "model."}})});
  const auto layer = streamed.layers<TinyLayerImpl>().acquire(1);
  EXPECT_TRUE(at::equal(layer->norm->weight, tensors["model.encoder.layer.1.norm.weight"]));
  EXPECT_TRUE(at::equal(model_->head->weight, tensors["lm_head.weight"]));
}

TEST(RenamePrefixes, TakesTheFirstRuleThatFits) {
  const auto rename = rename_prefixes({{"lm_head.", "lm_head."}, {"a.", "b.c."}});
  EXPECT_EQ(rename("lm_head.weight"), "lm_head.weight");
  EXPECT_EQ(rename("a.a.weight"), "b.c.a.weight");
  EXPECT_EQ(rename("other"), "other");
}

TEST_F(StreamedLayersMismatch, IsNoneWhenASharedWeightIsStoredOutsideTheLayers) {
  model_->layer(1)->linear = model_->layer(1)->replace_module("linear", model_->head);
  Tensors tensors = tensors_of(*model_);
  tensors.erase("encoder.layer.1.linear.weight");
  tensors.erase("encoder.layer.1.linear.bias");
  const StreamedModel streamed = stream_model(tensors);
  const auto layer = streamed.layers<TinyLayerImpl>().acquire(1);
  EXPECT_EQ(layer->linear->weight.data_ptr(), streamed.streamer().outside("head.weight").data);
  EXPECT_TRUE(at::equal(layer->linear->weight, tensors["head.weight"]));
}

TEST(WeightReport, CutsLongListsToWhatAPersonReads) {
  WeightReport report;
  for (int i = 0; i < 100; ++i) report.missing.push_back({"w" + std::to_string(i), i == 0 ? "[7] Half" : ""});
  EXPECT_EQ(describe(report), "100 missing in the checkpoint (w0: [7] Half; w1; w2; w3; w4; and 95 more)");
}

}  // namespace
}  // namespace tierstream
