#include <gtest/gtest.h>
#include <tierstream/adapters/torch/bind_outside.h>
#include <tierstream/adapters/torch/streamed_layers.h>
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
    const Checkpoint checkpoint = write_checkpoint(directory_, tensors_of(*trained_));
    streamer_.emplace(stream_tiny(checkpoint, slots, GetParam()));
    bind_outside(*model_, kPath, *streamer_);
    layers_.emplace(*model_, kPath, *streamer_);
  }
  void start(std::uint32_t slots) {
    start(slots, [](TinyModelImpl&) {});
  }

  bool holds_trained_weights(std::size_t layer) const {
    return at::equal(model_->layer(layer)->linear->weight, trained_->layer(layer)->linear->weight) &&
           at::equal(model_->layer(layer)->norm->bias, trained_->layer(layer)->norm->bias);
  }
  bool is_unbound(std::size_t layer) const {
    return model_->layer(layer)->linear->weight.isnan().all().item<bool>();
  }

  TemporaryDirectory directory_;
  TinyModel trained_{kLayers};
  TinyModel model_{kLayers};
  std::optional<Streamer> streamer_;
  std::optional<StreamedLayers<TinyLayerImpl>> layers_;  // ends before the streamer
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
    layers_.reset();
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

TEST_P(StreamedLayersTest, HoldWeightsOnlyWhileLeased) {
  start(2);
  for (auto&& layer : *layers_) {
    for (std::size_t i = 0; i < kLayers; ++i) EXPECT_EQ(is_unbound(i), i != layer.index());
    EXPECT_TRUE(holds_trained_weights(layer.index()));
  }
  EXPECT_TRUE(is_unbound(kLayers - 1));
}

TEST_P(StreamedLayersTest, StandForTheirWeightsInShapeAndDTypeWithoutTheirMemory) {
  start(1);
  const at::Tensor weight = model_->layer(0)->linear->weight;
  EXPECT_EQ(weight.sizes(), at::IntArrayRef({kWidth, kWidth}));
  EXPECT_EQ(weight.scalar_type(), at::kFloat);
  EXPECT_EQ(weight.storage().nbytes(), sizeof(float));
  EXPECT_FALSE(weight.requires_grad());
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
  auto first = std::make_optional(layers_->acquire(2));
  {
    const auto second = layers_->acquire(2);
    first.reset();
    EXPECT_TRUE(holds_trained_weights(2));
  }
  EXPECT_TRUE(is_unbound(2));
}

TEST_P(StreamedLayersTest, EndTheLeaseAndThePassWhenForwardThrows) {
  start(1);
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
  Streamer stream(const Tensors& tensors) { return stream_tiny(write_checkpoint(directory_, tensors), 1); }
  Thrown thrown_for(const Tensors& tensors) {
    Streamer streamer = stream(tensors);
    return thrown_by([&] { StreamedLayers<TinyLayerImpl>(*model_, kPath, streamer); });
  }

  TemporaryDirectory directory_;
  TinyModel model_{2};
};

TEST_F(StreamedLayersMismatch, IsReportedForAllLayersAtOnceAndLeavesTheModuleAsItWas) {
  Tensors tensors = tensors_of(*model_);
  tensors.erase("encoder.layer.0.norm.bias");
  tensors["encoder.layer.1.linear.bias"] = torch::zeros({kWidth}, torch::kLong);
  tensors["encoder.layer.1.gate"] = torch::zeros({1});
  EXPECT_EQ(
      thrown_for(tensors),
      (Thrown{Errc::kWeightMismatch,
              "the checkpoint does not fit the module: 1 missing in the checkpoint "
              "(encoder.layer.0.norm.bias), 1 unknown to the module (encoder.layer.1.gate), 1 of other shape "
              "or dtype (encoder.layer.1.linear.bias: [48] Float in the module, [48] I64 in the "
              "checkpoint)"}));
  EXPECT_TRUE(at::equal(model_->layer(0)->linear->weight, tensors["encoder.layer.0.linear.weight"]));
}

TEST_F(StreamedLayersMismatch, InTheNumberOfLayersNamesBoth) {
  EXPECT_EQ(
      thrown_for(tensors_of(*TinyModel(3))),
      (Thrown{Errc::kWeightMismatch, "the module has 2 layers at \"encoder.layer\", the checkpoint 3"}));
}

TEST_F(StreamedLayersMismatch, InTheTypeOfABlockNamesTheBlock) {
  Streamer streamer = stream(tensors_of(*model_));
  EXPECT_EQ(thrown_by([&] { StreamedLayers<torch::nn::LinearImpl>(*model_, kPath, streamer); }),
            (Thrown{Errc::kWrongModuleType,
                    "\"encoder.layer.0\" is a tierstream::TinyLayerImpl, not a torch::nn::LinearImpl"}));
}

TEST_F(StreamedLayersMismatch, IsNoneWhenNamesAreMapped) {
  Tensors tensors;
  for (const auto& [name, tensor] : tensors_of(*model_)) {
    tensors[name.starts_with("encoder.") ? name + "_v2" : name] = tensor;
  }
  Streamer streamer = stream(tensors);
  StreamedLayers<TinyLayerImpl> layers(
      *model_, kPath, streamer, {.rename = [](std::string_view name) { return std::string(name) + "_v2"; }});
  const auto layer = layers.acquire(1);
  EXPECT_TRUE(at::equal(layer->linear->weight, tensors["encoder.layer.1.linear.weight_v2"]));
}

TEST_F(StreamedLayersMismatch, IsNoneWhenASharedWeightIsStoredOutsideTheLayers) {
  model_->layer(1)->linear = model_->layer(1)->replace_module("linear", model_->head);
  Tensors tensors = tensors_of(*model_);
  tensors.erase("encoder.layer.1.linear.weight");
  tensors.erase("encoder.layer.1.linear.bias");
  Streamer streamer = stream(tensors);
  bind_outside(*model_, kPath, streamer);
  StreamedLayers<TinyLayerImpl> layers(*model_, kPath, streamer);
  const auto layer = layers.acquire(1);
  EXPECT_EQ(layer->linear->weight.data_ptr(), streamer.outside("head.weight").data);
  EXPECT_TRUE(at::equal(layer->linear->weight, tensors["head.weight"]));
}

}  // namespace
}  // namespace tierstream
