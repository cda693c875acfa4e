// What becomes of a model's tensors while it is streamed: the rules that a naive port breaks.
#include <gtest/gtest.h>
#include <tierstream/adapters/torch/build_layers.h>
#include <tierstream/adapters/torch/streamed_model.h>
#include <torch/nn.h>
#include <torch/serialize.h>

#include <cerrno>
#include <csignal>
#include <map>
#include <optional>
#include <sstream>
#include <tuple>
#include <utility>

#include "adapters/tiny_model.h"
#include "support/allocations.h"
#include "support/scripted_backend.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using testing::HasSubstr;

constexpr std::size_t kLayers = 5;
constexpr const char* kPath = "encoder.layer";
constexpr std::uint64_t kAmpleBytes = 1u << 20;

Budget ample() { return {.gpu = kAmpleBytes, .pinned = 16u << 20}; }
/// For models without more than their layers and the head.
Budget few_slots() { return {.gpu = 30'000, .pinned = 16u << 20}; }

/// Of all layers, as they are stored.
std::uint64_t layer_bytes(const LayerTable& table) {
  std::uint64_t bytes = 0;
  for (const Layer& layer : table.layers) bytes += layer.bytes();
  return bytes;
}

class Binding : public testing::Test {
 protected:
  /// Streams `model` from `tensors` through `slots` slots.
  StreamedModel start(torch::nn::Module& model, const Tensors& tensors, std::uint32_t slots = 1,
                      BindOptions binding = {}, std::uint64_t model_bytes = 0) {
    LayerTable table = write_checkpoint(directory_, tensors).layers(kPath);
    StreamerOptions streaming = tiny_streaming(table, slots, true, model_bytes);
    return stream(model, kPath, std::move(table),
                  {.streaming = std::move(streaming), .binding = std::move(binding)});
  }
  StreamedModel start(std::uint32_t slots = 1, BindOptions binding = {}, std::uint64_t model_bytes = 0) {
    return start(*model_, tensors_of(*trained_), slots, std::move(binding), model_bytes);
  }
  at::Tensor run(const StreamedModel& streamed) {
    return model_->forward(some_input(), streamed.layers<TinyLayerImpl>());
  }
  at::Tensor expected() { return trained_->forward_resident(some_input()); }
  at::Tensor weight(std::size_t layer) const { return model_->layer(layer)->linear->weight; }

  TemporaryDirectory directory_;
  TinyModel trained_{kLayers};
  TinyModel model_{kLayers};
};

/// Every layer's bytes as long as one lands: the slots, and one for layers without a slot.
std::uint64_t landing_bytes(const torch::nn::Module& layer, std::uint32_t buffers) {
  std::uint64_t bytes = 0;
  for (const at::Tensor& tensor : layer.parameters()) bytes += (tensor.nbytes() + 255) / 256 * 256;
  return buffers * bytes;
}

// --- Between leases ---

TEST_F(Binding, ShowsTheTrueWeightsBetweenLeases) {
  const StreamedModel streamed = start();
  const Tensors trained = tensors_of(*trained_);
  for (const auto& item : model_->named_parameters()) {
    EXPECT_TRUE(at::equal(item.value(), trained.at(item.key()))) << item.key();
  }
  std::stringstream file;
  torch::save(model_->layer(3)->linear, file);
  torch::nn::Linear loaded(kWidth, kWidth);
  torch::load(loaded, file);
  EXPECT_TRUE(at::equal(loaded->weight, trained_->layer(3)->linear->weight));
}

TEST_F(Binding, LetsNobodyWriteToWeightsBetweenLeases) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const StreamedModel streamed = start();
  float* const address = weight(1).data_ptr<float>();
  EXPECT_EXIT(*address = 0, testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(Binding, LeavesAClonePlainAndWithTheTrueWeights) {
  struct ListModelImpl : torch::nn::Cloneable<ListModelImpl> {
    ListModelImpl() { reset(); }
    void reset() override {
      layers = torch::nn::ModuleList();
      for (int i = 0; i < 3; ++i) layers->push_back(torch::nn::Linear(kWidth, kWidth));
      register_module("layers", layers);
    }
    torch::nn::ModuleList layers;
  };
  auto model = std::make_shared<ListModelImpl>();
  const Tensors tensors = tensors_of(*model);
  std::shared_ptr<torch::nn::Module> clone;
  {
    const StreamedModel streamed = stream(*model, "layers", {.streaming = {.budget = few_slots()}});
    ASSERT_GT(streamed.streamer().plan().streamed_layers(), 1u);
    const auto leased = streamed.layers<torch::nn::LinearImpl>().acquire(1);
    clone = model->clone();
  }
  for (const auto& item : clone->named_parameters()) {
    EXPECT_TRUE(at::equal(item.value(), tensors.at(item.key()))) << item.key();
    item.value().detach().add_(1);  // its own memory
  }
  EXPECT_TRUE(at::equal(model->layers->ptr<torch::nn::LinearImpl>(1)->weight, tensors.at("layers.1.weight")));
}

TEST_F(Binding, ShowsNaNWhereStorageIsNoLocalFileAndCopiesWhenClosed) {
  write_checkpoint(directory_, tensors_of(*trained_));
  LayerTable table = open_in_memory(directory_).layers(kPath);
  StreamerOptions streaming = tiny_streaming(table, 1);
  StreamedModel streamed = stream(*model_, kPath, std::move(table), {.streaming = std::move(streaming)});

  EXPECT_TRUE(weight(2).isnan().all().item<bool>());
  EXPECT_EQ(weight(2).storage().nbytes(), sizeof(float));
  EXPECT_TRUE(at::equal(run(streamed), expected()));
  streamed.close();
  EXPECT_TRUE(at::equal(model_->forward_resident(some_input()), expected()));
}

TEST_F(Binding, ShowsNaNWhereTheFileIsUnaligned) {
  Tensors tensors = tensors_of(*trained_);
  tensors["encoder.layer.0.a"] = torch::ones({3}, torch::kByte);  // first by name
  StreamedModel streamed = start(*model_, tensors, 1, {.allow_unexpected = true});
  EXPECT_TRUE(weight(0).isnan().all().item<bool>());
  EXPECT_TRUE(at::equal(run(streamed), expected()));
  weight(0).set_data(torch::zeros({1}));  // others' doings do not stay
  streamed.close();
  EXPECT_TRUE(at::equal(model_->forward_resident(some_input()), expected()));
}

// --- Sources in RAM ---

TEST_F(Binding, StreamsFromTheModulesOwnWeightsWhereTheyLie) {
  const at::Tensor expected = model_->forward_resident(some_input());
  const void* const address = weight(1).data_ptr();
  StreamedModel streamed = stream(*model_, kPath, {.streaming = {.budget = few_slots()}});
  EXPECT_EQ(streamed.streamer().plan().slots, 2u);
  EXPECT_EQ(weight(1).data_ptr(), address);
  for (int pass = 0; pass < 2; ++pass) EXPECT_TRUE(at::equal(run(streamed), expected));
  EXPECT_GT(streamed.streamer().stats().total.bytes.pinned, 5 * kWidth * kWidth * sizeof(float));
  streamed.close();
  EXPECT_EQ(weight(1).data_ptr(), address);
  EXPECT_TRUE(weight(1).requires_grad());
}

TEST_F(Binding, KeepsOwnWeightsAliveWhenTheModelIsDestroyed) {
  auto model = std::make_shared<TinyModelImpl>(kLayers);
  const at::Tensor weight = model->layer(4)->linear->weight.detach().clone();
  const StreamedModel streamed = stream(*model, kPath, {.streaming = {.budget = few_slots()}});
  ASSERT_GT(streamed.streamer().plan().streamed_layers(), 2u);
  model.reset();
  const auto layer = streamed.layers<TinyLayerImpl>().acquire(4);
  EXPECT_TRUE(at::equal(layer->linear->weight, weight));
}

TEST_F(Binding, KeepsTheOrderOfElementsOfOwnWeights) {
  auto& linear = *model_->layer(2)->linear;
  linear.weight.set_data(linear.weight.detach().clone().t());  // not contiguous
  const at::Tensor expected = model_->forward_resident(some_input());
  const StreamedModel streamed = stream(*model_, kPath, {.streaming = {.budget = few_slots()}});
  ASSERT_GT(streamed.streamer().plan().streamed_layers(), 2u);
  EXPECT_TRUE(at::equal(run(streamed), expected));
  const auto layer = streamed.layers<TinyLayerImpl>().acquire(2);
  EXPECT_EQ(layer->linear->weight.strides(), at::IntArrayRef({1, kWidth}));
  EXPECT_EQ(layer->linear->weight.data_ptr(), layer.lease()["linear.weight"].data);
}

TEST_F(Binding, KeepsTheModulesOrderOfElementsOverTheFiles) {
  auto& linear = *model_->layer(2)->linear;
  linear.weight.set_data(linear.weight.detach().t());
  trained_->layer(2)->linear->weight.set_data(trained_->layer(2)->linear->weight.detach().t());
  StreamedModel streamed = start(1, {}, landing_bytes(linear, 4));
  EXPECT_TRUE(at::equal(run(streamed), expected()));
  EXPECT_EQ(streamed.layers<TinyLayerImpl>().acquire(2)->linear->weight.strides(),
            at::IntArrayRef({1, kWidth}));
  streamed.close();
  EXPECT_EQ(linear.weight.strides(), at::IntArrayRef({1, kWidth}));
  EXPECT_TRUE(at::equal(linear.weight, trained_->layer(2)->linear->weight));
}

TEST_F(Binding, TakesTensorsWithoutElements) {
  for (auto* const owner : {&trained_, &model_}) {
    (*owner)->layer(1)->register_parameter("none", torch::zeros({0, 3}));
    (*owner)->register_parameter("none", torch::zeros({0}));
  }
  for (const bool own : {false, true}) {
    const at::Tensor result = own ? model_->forward_resident(some_input()) : expected();
    const StreamedModel streamed = own ? stream(*model_, kPath, {.streaming = {.budget = ample()}}) : start();
    EXPECT_TRUE(at::equal(run(streamed), result));
    const auto layer = streamed.layers<TinyLayerImpl>().acquire(1);
    EXPECT_EQ(layer->named_parameters()["none"].sizes(), at::IntArrayRef({0, 3}));
  }
}

TEST_F(Binding, BuildsAModelWithTheMemoryOfOneLayer) {
  std::vector<std::shared_ptr<TinyLayerImpl>> made;
  auto model = std::make_shared<TinyModelImpl>(0);
  const torch::nn::ModuleList layers = build_layers(kLayers, [&](std::size_t i) {
    for (std::size_t before = 0; before < i; ++before) {
      for (const at::Tensor& parameter : made[before]->parameters()) {
        EXPECT_EQ(parameter.storage().nbytes(), sizeof(float));
      }
    }
    return made.emplace_back(std::make_shared<TinyLayerImpl>());
  });
  model->layers->extend(*layers);
  EXPECT_TRUE(model->layer(1)->linear->weight.requires_grad());
  EXPECT_EQ(model->layer(1)->linear->weight.sizes(), at::IntArrayRef({kWidth, kWidth}));
  StreamedModel streamed = start(*model, tensors_of(*trained_));
  EXPECT_TRUE(at::equal(model->forward(some_input(), streamed.layers<TinyLayerImpl>()), expected()));
  streamed.close();
  EXPECT_TRUE(at::equal(model->forward_resident(some_input()), expected()));
}

TEST_F(Binding, StreamsAModelAgainThatWasGivenBackAsViewsOfAFile) {
  { const StreamedModel streamed = start(); }
  const StreamedModel streamed = stream(*model_, kPath, {.streaming = {.budget = ample()}});
  EXPECT_TRUE(at::equal(run(streamed), expected()));
}

// --- Shared and overlapping memory ---

/// A model in which weights of layers 0 and 3 are rows of the head's, and two of layer 1 overlap.
void overlap(TinyModelImpl& model) {
  const at::Tensor table = torch::rand({2 * kWidth, kWidth});
  model.head->weight.set_data(table.narrow(0, 0, kWidth));
  model.layer(0)->linear->weight.set_data(table.narrow(0, 8, kWidth));
  model.layer(3)->linear->weight.set_data(table.narrow(0, kWidth, kWidth));
  const at::Tensor row = torch::rand({kWidth + 1});
  model.layer(1)->norm->weight.set_data(row.narrow(0, 0, kWidth));
  model.layer(1)->norm->bias.set_data(row.narrow(0, 1, kWidth));
}

TEST_F(Binding, OwnsOverlappingMemoryOnce) {
  overlap(*model_);
  overlap(*trained_);
  for (const bool own : {true, false}) {
    const at::Tensor result = own ? model_->forward_resident(some_input()) : expected();
    const StreamedModel streamed =
        own ? stream(*model_, kPath, {.streaming = {.budget = ample()}}) : start(1, {}, 40'000);
    for (int pass = 0; pass < 2; ++pass) EXPECT_TRUE(at::equal(run(streamed), result));
    const auto* const head = model_->head->weight.const_data_ptr<float>();
    EXPECT_EQ(weight(0).const_data_ptr<float>(), head + 8 * kWidth);
    EXPECT_EQ(model_->layer(1)->norm->bias.const_data_ptr<float>(),
              model_->layer(1)->norm->weight.const_data_ptr<float>() + 1);
  }
}

TEST_F(Binding, FillsOverlappingMemoryFromThePartsThatTheCheckpointHas) {
  Tensors tensors = tensors_of(*trained_);
  const at::Tensor both = torch::rand({2 * kWidth, kWidth});
  model_->head->register_parameter("both", both.clone());
  const at::Tensor parameter = model_->head->named_parameters()["both"];
  model_->head->weight.set_data(parameter.detach().narrow(0, 0, kWidth));
  EXPECT_THAT(thrown_by([&] { start(*model_, tensors); }).what,
              HasSubstr("1 missing in the checkpoint (head.both: [96, 48] Float)"));

  weight(2).set_data(parameter.detach().narrow(0, kWidth, kWidth));
  const StreamedModel streamed = start(*model_, tensors, 1, {}, 40'000);
  EXPECT_TRUE(
      at::equal(parameter, at::cat({tensors["head.weight"], tensors["encoder.layer.2.linear.weight"]})));
  EXPECT_TRUE(at::equal(run(streamed), expected()));
}

/// C++ ties weights by assigning members: what was registered before stays so, and nothing uses it.
TEST_F(Binding, KeepsAWeightThatAnotherLayerUsesThroughAMember) {
  for (auto* const owner : {&trained_, &model_}) {
    (*owner)->layer(3)->linear->weight = (*owner)->layer(1)->linear->weight;
    (*owner)->head->weight = (*owner)->layer(2)->linear->weight;
  }
  const Tensors tensors = tensors_of(*trained_);
  write_checkpoint(directory_, tensors);
  for (const bool own : {true, false}) {  // where they lie in RAM, and where unleased weights are NaN
    const at::Tensor result = own ? model_->forward_resident(some_input()) : expected();
    LayerTable table = open_in_memory(directory_).layers(kPath);
    const Budget budget = tiny_streaming(table, 1, true, 40'000).budget;
    StreamedModel streamed =
        own ? stream(*model_, kPath, {.streaming = {.budget = budget}})
            : stream(*model_, kPath, std::move(table), {.streaming = {.budget = budget}});
    ASSERT_GT(streamed.streamer().plan().streamed_layers(), 2u);
    for (int pass = 0; pass < 2; ++pass) EXPECT_TRUE(at::equal(run(streamed), result));
    const auto layer = streamed.layers<TinyLayerImpl>().acquire(3);
    EXPECT_EQ(layer->linear->weight.data_ptr(), weight(1).data_ptr());
  }
}

TEST_F(Binding, LoadsAWeightThatStandsInTwoPlacesByEitherName) {
  Tensors tensors = tensors_of(*model_);
  model_->register_module("embedding", torch::nn::Linear(model_->head));  // the same module once more
  const StreamedModel streamed = start(*model_, tensors);
  EXPECT_TRUE(at::equal(model_->head->weight, tensors["head.weight"]));
}

TEST_F(Binding, MovesWhatTheCheckpointLacksAndReadsTheBuffersThatItHas) {
  Tensors tensors = tensors_of(*model_);
  tensors["steps"] = torch::tensor({7}, torch::kLong);
  const at::Tensor steps = model_->register_buffer("steps", torch::zeros({1}, torch::kLong));
  const at::Tensor positions = model_->register_buffer("positions", torch::arange(5));
  const at::Tensor extra = model_->register_parameter("extra", torch::ones({3}));
  EXPECT_THAT(thrown_by([&] { start(*model_, tensors); }).what,
              HasSubstr("1 missing in the checkpoint (extra: [3] Float)"));
  StreamedModel streamed = start(*model_, tensors, 1, {.allow_missing = true});
  EXPECT_EQ(steps.item<std::int64_t>(), 7);
  steps.add_(1);
  streamed.close();
  EXPECT_EQ(steps.item<std::int64_t>(), 8);
  EXPECT_TRUE(at::equal(positions, torch::arange(5)));
  EXPECT_TRUE(at::equal(extra, torch::ones({3})));
}

TEST_F(Binding, StreamsBuffersThatAreOnlyRead) {
  constexpr std::int64_t kElements = 1000;
  for (auto* const owner : {&trained_, &model_}) {
    for (std::size_t i = 0; i < kLayers; ++i) {
      TinyLayerImpl& layer = *(*owner)->layer(i);
      const auto value = owner == &trained_ ? static_cast<std::int64_t>(i) : 0;
      layer.register_buffer("table", torch::full({kElements}, value, torch::kLong));
      layer.register_buffer("calls", torch::zeros({1}));
    }
  }
  const BindOptions only_tables{
      .is_read_only = [](std::string_view name) { return name.ends_with(".table"); }};
  const Tensors tensors = tensors_of(*trained_);
  for (const bool own : {false, true}) {
    TinyModel& model = own ? trained_ : model_;
    StreamedModel streamed =
        own ? stream(*model, kPath, {.streaming = {.budget = few_slots()}, .binding = only_tables})
            : start(*model, tensors, 1, only_tables, kLayers * sizeof(float));
    ASSERT_GT(streamed.streamer().plan().streamed_layers(), 2u);
    EXPECT_LT(streamed.weights()->kept_bytes(), std::uint64_t{kElements} * sizeof(std::int64_t));
    for (int pass = 0; pass < 2; ++pass) {
      for (auto&& layer : streamed.layers<TinyLayerImpl>()) {
        const auto buffers = layer->named_buffers();
        EXPECT_EQ(buffers["table"].data_ptr(), layer.lease()["table"].data);
        EXPECT_TRUE(buffers["table"].eq(static_cast<std::int64_t>(layer.index())).all().item<bool>());
        buffers["calls"].add_(1);
      }
    }
    const auto between = model->layer(3)->named_buffers();
    EXPECT_TRUE(between["table"].eq(3).all().item<bool>());
    streamed.close();
    EXPECT_EQ(between["calls"].item<float>(), 2.0f);
    EXPECT_TRUE(between["table"].eq(3).all().item<bool>());
  }
}

// --- Several lists and models ---

struct TwoListsImpl : torch::nn::Module {
  TwoListsImpl() {
    for (int i = 0; i < 3; ++i) first->push_back(TinyLayer());
    for (int i = 0; i < 4; ++i) second->push_back(TinyLayer());
    register_module("first", first);
    register_module("second", second);
    head = register_module("head", torch::nn::Linear(kWidth, kWidth));
  }
  template <class First, class Second>
  at::Tensor interleaved(at::Tensor x, First&& a, Second&& b) {
    for (const std::size_t i : {0u, 1u, 2u}) x = b(i)->forward(a(i)->forward(x));
    return head->forward(b(3)->forward(x));
  }
  at::Tensor resident(const at::Tensor& x) {
    return interleaved(
        x, [&](std::size_t i) { return first->ptr<TinyLayerImpl>(i); },
        [&](std::size_t i) { return second->ptr<TinyLayerImpl>(i); });
  }
  torch::nn::ModuleList first;
  torch::nn::ModuleList second;
  torch::nn::Linear head = nullptr;
};

TEST_F(Binding, StreamsTwoListsOfAModelInTurnAndInterleaved) {
  auto trained = std::make_shared<TwoListsImpl>();
  auto model = std::make_shared<TwoListsImpl>();
  const at::Tensor expected = trained->resident(some_input());
  const Checkpoint checkpoint = write_checkpoint(directory_, tensors_of(*trained));
  const StreamedModel streamed =
      stream(*model, "first", checkpoint,
             {.streaming = {.budget = {.gpu = 50'000, .pinned = 16u << 20}}, .more_layers = {"second"}});
  EXPECT_LT(streamed.streamer().plan().slots, 7u);
  const auto first = streamed.layers<TinyLayerImpl>();
  const auto second = streamed.layers<TinyLayerImpl>("second");
  for (int pass = 0; pass < 2; ++pass) {
    const at::Tensor y = model->interleaved(
        some_input(), [&](std::size_t i) { return first.acquire(i); },
        [&](std::size_t i) { return second.acquire(i); });
    EXPECT_TRUE(at::equal(y, expected));
  }
  at::Tensor x = some_input();
  at::Tensor y = some_input();
  for (auto&& layer : first) x = layer->forward(x);
  for (auto&& layer : second) x = layer->forward(x);
  for (int i = 0; i < 3; ++i) y = trained->first->ptr<TinyLayerImpl>(i)->forward(y);
  for (int i = 0; i < 4; ++i) y = trained->second->ptr<TinyLayerImpl>(i)->forward(y);
  EXPECT_TRUE(at::equal(x, y));
  EXPECT_EQ(thrown_by([&] { second.acquire(4); }),
            (Thrown{Errc::kInvalidArgument, "layer 4 of \"second\" is out of range: there are 0 to 3"}));
  EXPECT_EQ(thrown_by([&] { streamed.layers("third"); }),
            (Thrown{Errc::kNoSuchModule, "no layers at \"third\" are streamed, but at first, second"}));
}

TEST_F(Binding, StreamsTwoModelsSideBySide) {
  TinyModel other(kLayers);
  const at::Tensor expected_of_other = other->forward_resident(some_input());
  const StreamedModel streamed_other = stream(*other, kPath, {.streaming = {.budget = few_slots()}});
  const StreamedModel streamed = start();
  ASSERT_GT(streamed_other.streamer().plan().streamed_layers(), 2u);
  ASSERT_GT(streamed.streamer().plan().streamed_layers(), 2u);
  const auto layers = streamed.layers<TinyLayerImpl>();
  at::Tensor x = some_input();
  at::Tensor y = some_input();
  for (std::size_t i = 0; i < kLayers; ++i) {
    const auto a = layers.acquire(i);
    const auto b = streamed_other.layers<TinyLayerImpl>().acquire(i);
    x = a->forward(x);
    y = b->forward(y);
  }
  EXPECT_TRUE(at::equal(model_->head->forward(x), expected()));
  EXPECT_TRUE(at::equal(other->head->forward(y), expected_of_other));
}

// --- Modules that change ---

TEST_F(Binding, RefusesAModuleThatWasMovedConvertedOrGivenOtherData) {
  StreamedModel streamed = start();
  const auto layers = streamed.layers<TinyLayerImpl>();
  const auto refusal = [&](std::size_t i) { return thrown_by([&] { layers.acquire(i); }); };
  model_->layer(1)->linear->to(torch::kDouble);
  EXPECT_EQ(refusal(1),
            (Thrown{Errc::kModuleChanged,
                    "tensor \"encoder.layer.1.linear.weight\": was given other data or moved while it "
                    "was streamed"}));
  weight(2).set_data(torch::zeros({kWidth, kWidth}));
  EXPECT_EQ(refusal(2).errc, Errc::kModuleChanged);
  EXPECT_EQ(refusal(0).what, "nothing was thrown");
  streamed.close();
  EXPECT_TRUE(at::equal(model_->forward_resident(some_input()), expected()));
}

TEST_F(Binding, RefusesALayerWhoseSharedWeightWasMoved) {
  model_->layer(1)->norm = model_->layer(1)->replace_module("norm", model_->layer(4)->norm);
  StreamedModel streamed = stream(*model_, kPath, {.streaming = {.budget = few_slots()}});
  const auto layers = streamed.layers<TinyLayerImpl>();
  layers.acquire(1);
  model_->layer(4)->norm->to(torch::kDouble);
  for (const std::size_t i : {1u, 4u}) {
    EXPECT_EQ(thrown_by([&] { layers.acquire(i); }),
              (Thrown{Errc::kModuleChanged,
                      "tensor \"encoder.layer.1.norm.weight\": was given other data or moved while it was "
                      "streamed"}));
  }
  EXPECT_EQ(thrown_by([&] { layers.acquire(2); }).what, "nothing was thrown");
}

TEST_F(Binding, RefusesALayerOfWhichAPartWasReplaced) {
  const StreamedModel streamed = start();
  const auto layers = streamed.layers<TinyLayerImpl>();
  auto& layer = *model_->layer(1);
  layer.norm = layer.replace_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})));
  EXPECT_EQ(
      thrown_by([&] { layers.acquire(1); }),
      (Thrown{
          Errc::kModuleChanged,
          "tensor \"encoder.layer.1.norm.weight\": belongs to no module any more: a part of its layer was "
          "replaced while it was streamed"}));
}

TEST_F(Binding, RefusesALayerOfWhichAMemberWasAssignedAnotherTensor) {
  StreamedModel streamed = start();
  const auto layers = streamed.layers<TinyLayerImpl>();
  at::Tensor& member = model_->layer(1)->linear->weight;
  const at::Tensor registered = member;  // held on to: the tensor is not the module's alone
  member = torch::zeros({kWidth, kWidth});
  EXPECT_EQ(thrown_by([&] { layers.acquire(1); }),
            (Thrown{Errc::kModuleChanged,
                    "tensor \"encoder.layer.1.linear.weight\": its module uses it no more: a member was "
                    "assigned another tensor while the layer was streamed"}));
  model_->layer(2)->norm->bias = at::Tensor();
  EXPECT_EQ(thrown_by([&] { layers.acquire(2); }).errc, Errc::kModuleChanged);
  EXPECT_EQ(thrown_by([&] { layers.acquire(3); }).what, "nothing was thrown");
  member = registered;
  EXPECT_TRUE(at::equal(layers.acquire(1)->linear->weight, trained_->layer(1)->linear->weight));
}

TEST_F(Binding, RefusesALayerOfWhichAMemberWasAssignedAnotherModule) {
  const StreamedModel streamed = start();
  const auto layers = streamed.layers<TinyLayerImpl>();
  model_->layer(1)->norm = torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth}));
  EXPECT_EQ(thrown_by([&] { layers.acquire(1); }),
            (Thrown{Errc::kModuleChanged,
                    "\"encoder.layer.1.norm\": nothing but its registration holds this module any more, as "
                    "if a member was assigned another one while the layer was streamed"}));
  EXPECT_EQ(thrown_by([&] { layers.acquire(3); }).what, "nothing was thrown");
}

/// Layers with parameters of their own, in every way in which one can be had.
struct OwnLayerImpl : torch::nn::Module {
  OwnLayerImpl() {
    register_parameter("no_member", torch::rand({kWidth}));
    listed->append(torch::rand({kWidth}));
    head->weight = linear->weight;  // tied as C++ does it: the head's own stays registered
  }
  at::Tensor forward(const at::Tensor& x) {
    return linear->forward(x) * scale + named_parameters()["no_member"] + listed[0] + head->forward(x);
  }
  torch::nn::Linear linear = register_module("linear", torch::nn::Linear(kWidth, kWidth));
  torch::nn::Linear head = register_module("head", torch::nn::Linear(kWidth, kWidth));
  torch::nn::ParameterList listed = register_module("listed", torch::nn::ParameterList());
  at::Tensor scale = register_parameter("scale", torch::rand({kWidth}));
};

struct OwnModelImpl : torch::nn::Module {
  OwnModelImpl() {
    for (int i = 0; i < 3; ++i) layers->push_back(std::make_shared<OwnLayerImpl>());
    register_module("layers", layers);
  }
  at::Tensor forward(at::Tensor x) {
    for (const auto& layer : *layers) x = layer->as<OwnLayerImpl>()->forward(x);
    return x;
  }
  torch::nn::ModuleList layers;
};

TEST_F(Binding, RefusesALayerOfOnesOwnOfWhichAMemberWasAssigned) {
  auto model = std::make_shared<OwnModelImpl>();
  const StreamedModel streamed = stream(*model, "layers", {.streaming = {.budget = ample()}});
  const auto layers = streamed.layers<OwnLayerImpl>();
  layers.acquire(1);
  model->layers->ptr<OwnLayerImpl>(1)->scale = torch::zeros({kWidth});
  EXPECT_EQ(thrown_by([&] { layers.acquire(1); }),
            (Thrown{Errc::kModuleChanged,
                    "tensor \"layers.1.scale\": nothing but its registration holds it any more, as if a "
                    "member was assigned another tensor while the layer was streamed"}));
}

TEST_F(Binding, RefusesNoLayerBecauseAListOfParametersCameOrWent) {
  auto model = std::make_shared<OwnModelImpl>();
  const at::Tensor expected = model->forward(some_input());
  std::vector<at::Tensor> kept = model->parameters();
  const StreamedModel streamed = stream(*model, "layers", {.streaming = {.budget = ample()}});
  for (int pass = 0; pass < 3; ++pass) {
    at::Tensor x = some_input();
    for (auto&& layer : streamed.layers<OwnLayerImpl>()) x = layer->forward(x);
    EXPECT_TRUE(at::equal(x, expected));
    if (pass == 0) kept.clear();
    if (pass == 1) kept = model->parameters();
  }
}

TEST_F(Binding, RefusesAListThatHoldsAnotherModule) {
  const StreamedModel streamed = start();
  const auto layers = streamed.layers<TinyLayerImpl>();
  *(model_->layers->begin() + 1) = std::make_shared<TinyLayerImpl>();
  EXPECT_EQ(thrown_by([&] { layers.acquire(1); }),
            (Thrown{Errc::kModuleChanged,
                    "\"encoder.layer.1\" holds another module than the one that is streamed"}));
}

TEST_F(Binding, RefusesTensorsWhoseDataCannotBeReplacedWithTheirName) {
  model_->layer(1)->register_parameter("scale", torch::zeros({1}, torch::kMeta));
  EXPECT_EQ(
      thrown_by([&] { start(); }),
      (Thrown{Errc::kInvalidArgument,
              "tensor \"encoder.layer.1.scale\": a meta tensor has no data to replace: make the module on "
              "the cpu"}));
  const c10::InferenceMode inference;
  TinyModel made(kLayers);
  EXPECT_EQ(
      thrown_by([&] { start(*made, tensors_of(*trained_)); }),
      (Thrown{Errc::kInvalidArgument,
              "tensor \"head.weight\": the data of an inference tensor cannot be replaced: make the module "
              "outside of inference mode"}));
}

/// Of every parameter, as a failed `stream` must leave it.
std::map<std::string, std::pair<const void*, bool>> states_of(const torch::nn::Module& module) {
  std::map<std::string, std::pair<const void*, bool>> states;
  for (const auto& item : module.named_parameters()) {
    states[item.key()] = {item.value().const_data_ptr(), item.value().requires_grad()};
  }
  return states;
}

/// Storage whose header can be read, and of the tensors' bytes no more than so many requests.
Checkpoint open_until(const TemporaryDirectory& directory, std::size_t readable) {
  auto files = files_in_memory(directory);
  const auto header = make_memory_backend(files);
  const FileInfo info = header->info(header->open(files->begin()->first));
  StorageRegistry registry;
  registry.add("bad", [=, is_first = true](const StorageOptions& options) mutable {
    if (std::exchange(is_first, false)) return make_memory_backend(files, options);
    auto backend = std::make_unique<ScriptedBackend>(
        std::vector<ScriptedBackend::File>{{.path = files->begin()->first, .info = info}});
    backend->script(std::vector<std::int64_t>(readable, 1 << 30));
    backend->script_forever(-EIO);
    return std::unique_ptr<StorageBackend>(std::move(backend));
  });
  return Checkpoint::open("bad://model.safetensors", {}, registry);
}

TEST_F(Binding, LeavesTheModelAsItWasWhereItsSourceCannotBeRead) {
  model_->layer(1)->norm =
      model_->layer(1)->replace_module("norm", model_->layer(4)->norm);  // read from a layer
  write_checkpoint(directory_, tensors_of(*trained_));
  const auto before = states_of(*model_);
  for (const std::size_t readable : {0u, 1u, 2u}) {  // what is outside the layers comes first
    SCOPED_TRACE(readable);
    LayerTable table = open_until(directory_, readable).layers(kPath);
    StreamerOptions streaming = tiny_streaming(table, 1, true, 40'000);
    EXPECT_EQ(thrown_by([&] {
                stream(*model_, kPath, std::move(table), {.streaming = std::move(streaming)});
              }).errc,
              Errc::kReadFailed);
    EXPECT_EQ(states_of(*model_), before);
  }
}

// --- Addresses ---

TEST_F(Binding, GivesAWeightOneAddressForEachSlotAndGeneration) {
  StreamedModel streamed = start(2);
  const auto layers = streamed.layers<TinyLayerImpl>();
  std::map<std::tuple<std::size_t, std::uint32_t, std::uint64_t>, const void*> addresses;
  const auto note = [&](const StreamedLayer<TinyLayerImpl>& layer) {
    const std::tuple key(layer.index(), layer.lease().slot(), layer.lease().generation());
    const void* const address = layer->linear->weight.data_ptr();
    EXPECT_EQ(addresses.try_emplace(key, address).first->second, address);
  };
  for (int pass = 0; pass < 4; ++pass) {
    for (auto&& layer : layers) note(layer);
    note(layers.acquire(0));  // so that layers change slots
    if (pass == 1) streamed.set_budget(ample());
  }
  EXPECT_GT(addresses.size(), 2 * kLayers);
}

TEST_F(Binding, GivesAWeightOneAddressWhereSlotsAreStable) {
  LayerTable table = write_checkpoint(directory_, tensors_of(*trained_)).layers(kPath);
  StreamerOptions streaming = tiny_streaming(table, 3);
  streaming.stable_slots = true;
  const StreamedModel streamed =
      stream(*model_, kPath, std::move(table), {.streaming = std::move(streaming)});
  std::map<std::size_t, const void*> addresses;
  for (int pass = 0; pass < 3; ++pass) {
    for (auto&& layer : streamed.layers<TinyLayerImpl>()) {
      const void* const address = layer->linear->weight.data_ptr();
      EXPECT_EQ(addresses.try_emplace(layer.index(), address).first->second, address);
    }
  }
}

TEST_F(Binding, RefusesALayerThatIsLeasedFromBeforeTheBudgetWasChanged) {
  StreamedModel streamed = start(3);
  const auto layers = streamed.layers<TinyLayerImpl>();
  auto before = std::make_optional(layers.acquire(1));
  streamed.set_budget({.gpu = 200'000, .pinned = 16u << 20});
  EXPECT_EQ(thrown_by([&] { layers.acquire(1); }).errc, Errc::kLeasesOutstanding);
  EXPECT_TRUE(at::equal(weight(1), trained_->layer(1)->linear->weight));
  before.reset();
  EXPECT_TRUE(at::equal(run(streamed), expected()));
}

TEST_F(Binding, IsNotClosedWhileALayerIsLeased) {
  StreamedModel streamed = start();
  auto layer = std::make_optional(streamed.layers<TinyLayerImpl>().acquire(1));
  EXPECT_EQ(thrown_by([&] { streamed.close(); }).errc, Errc::kLeasesOutstanding);
  layer.reset();
  streamed.close();
  EXPECT_EQ(thrown_by([&] { streamed.layers<TinyLayerImpl>().acquire(1); }),
            (Thrown{Errc::kClosed, "the model is not streamed any more"}));
}

TEST_F(Binding, TakesWhatTheModelKeepsOffTheBudget) {
  model_->register_buffer("cache", torch::zeros({1000}));
  constexpr std::uint64_t kFew = 50'000;
  const StreamedModel streamed =
      stream(*model_, kPath, {.streaming = {.budget = {.gpu = kFew, .pinned = 16u << 20}}});
  EXPECT_EQ(streamed.weights()->kept_bytes(), 0u) << "it lies on the device already";
  const StreamOptions converted{.streaming = {.budget = {.gpu = 60'000, .pinned = 16u << 20}},
                                .binding = {.poison = true}};
  TinyModel other(kLayers);
  for (const std::uint64_t few : {1'000, 45'000}) {
    expect_throws(Errc::kBudgetTooSmall, HasSubstr("the model and its LoRAs keep"), [&] {
      stream(*other, kPath,
             {.streaming = {.budget = {.gpu = few, .pinned = 16u << 20}}, .binding = {.poison = true}});
    });
  }
  const StreamedModel poisoned = stream(*other, kPath, converted);
  EXPECT_LE(poisoned.streamer().plan().used.gpu + landing_bytes(*other->layer(0), 4), 60'000u);
}

// --- Landing ---

class Converted : public Binding,
                  public testing::WithParamInterface<std::pair<at::ScalarType, at::ScalarType>> {
 protected:
  /// The checkpoint in one dtype, both models in the other.
  void SetUp() override {
    const auto [stored, computed] = GetParam();
    trained_->to(stored);
    tensors_ = tensors_of(*trained_);
    trained_->to(computed);
    model_->to(computed);
    input_ = some_input().to(computed);
  }
  StreamedModel start_converted(std::uint32_t slots, std::uint64_t more_bytes = 0) {
    return start(*model_, tensors_, slots, {}, converted_bytes(slots) + more_bytes);
  }
  std::uint64_t converted_bytes(std::uint32_t slots) {
    std::uint64_t bytes = landing_bytes(*model_->layer(0), std::max(slots, 3u) + 1);
    for (const at::Tensor& tensor : model_->head->parameters()) bytes += tensor.nbytes();
    return bytes;
  }
  at::Tensor run_converted(const StreamedModel& streamed) {
    return model_->forward(input_, streamed.layers<TinyLayerImpl>());
  }

  Tensors tensors_;
  at::Tensor input_;
};

INSTANTIATE_TEST_SUITE_P(
    DTypes, Converted,
    testing::Values(std::pair(at::kBFloat16, at::kFloat), std::pair(at::kHalf, at::kFloat),
                    std::pair(at::kFloat, at::kBFloat16), std::pair(at::kFloat8_e4m3fn, at::kFloat),
                    std::pair(at::kFloat, at::kDouble)),
    [](const auto& parameter) {
      return std::string(c10::toString(parameter.param.first)) + "To" + c10::toString(parameter.param.second);
    });

TEST_P(Converted, WeightsComputeTheBitsOfTheConvertedModel) {
  const at::Tensor expected = trained_->forward_resident(input_);
  for (const std::uint32_t slots : {1u, 2u, 5u}) {
    StreamedModel streamed = start_converted(slots);
    for (int pass = 0; pass < 3; ++pass) EXPECT_TRUE(at::equal(run_converted(streamed), expected)) << slots;
    EXPECT_EQ(weight(1).scalar_type(), GetParam().first);  // between leases: as in the file
    EXPECT_EQ(model_->head->weight.scalar_type(), GetParam().second);
    streamed.close();
    EXPECT_EQ(weight(1).scalar_type(), GetParam().second);
    EXPECT_TRUE(at::equal(model_->forward_resident(input_), expected));
  }
}

TEST_P(Converted, WeightsTravelRawOnEveryPathAndBecomeTheSameBits) {
  const at::Tensor expected = trained_->forward_resident(input_);
  for (const char* const path : {"reads land", "through the ring", "in place"}) {
    LayerTable table = write_checkpoint(directory_, tensors_).layers(kPath);
    const std::uint64_t stored_bytes = layer_bytes(table);
    StreamerOptions streaming =
        tiny_streaming(table, 1, path != std::string_view("through the ring"), converted_bytes(1));
    if (path == std::string_view("in place")) streaming.budget.page_cache = 1u << 30;
    StreamedModel streamed = stream(*model_, kPath, std::move(table), {.streaming = std::move(streaming)});
    constexpr std::uint64_t kNeighbours = 1024 * kLayers;  // what alignment takes of them
    for (int pass = 0; pass < 3; ++pass) {
      EXPECT_TRUE(at::equal(run_converted(streamed), expected)) << path;
      const TierBytes bytes = streamed.streamer().stats().last_pass.bytes;
      EXPECT_GE(bytes.disk + bytes.page_cache, stored_bytes) << path;
      EXPECT_LE(bytes.disk + bytes.page_cache, stored_bytes + kNeighbours) << path;
      EXPECT_EQ(bytes.gpu, 0u) << path;
    }
    streamed.close();
  }
}

TEST_P(Converted, WeightsOfAResidentLayerAreConvertedOnceAndRefusedToTwoAtOnce) {
  StreamedModel streamed = start_converted(1, kAmpleBytes);  // all is resident on the device: no slots
  ASSERT_EQ(streamed.streamer().plan().streamed_layers(), 0u);
  EXPECT_TRUE(at::equal(run_converted(streamed), trained_->forward_resident(input_)));
  const auto layers = streamed.layers<TinyLayerImpl>();
  {
    const auto first = layers.acquire(1);
    const auto again = layers.acquire(1);
    EXPECT_EQ(
        thrown_by([&] { layers.acquire(2); }),
        (Thrown{
            Errc::kTooManyLeases,
            "layers 1 and 2 would be leased at once, and share the memory in which weights are converted; "
            "end the first before the second begins"}));
    EXPECT_TRUE(at::equal(weight(1), trained_->layer(1)->linear->weight));
  }
  EXPECT_TRUE(at::equal(run_converted(streamed), trained_->forward_resident(input_)));
}

TEST_P(Converted, WeightsStayConvertedWhileTheLayerIsInItsSlot) {
  StreamedModel streamed = start_converted(2);
  const auto layers = streamed.layers<TinyLayerImpl>();
  const void* const address = layers.acquire(1)->linear->weight.data_ptr();
  layers.acquire(1)->linear->weight.zero_();  // nobody may, but it shows whether they are converted again
  EXPECT_EQ(layers.acquire(1)->linear->weight.data_ptr(), address);
  EXPECT_EQ(layers.acquire(1)->linear->weight.count_nonzero().item<std::int64_t>(), 0);
}

TEST_P(Converted, WeightsAreConvertedWithoutAllocations) {
  StreamedModel streamed = start_converted(1);
  const auto layers = streamed.layers<TinyLayerImpl>();
  for (const std::size_t i : {0u, 1u}) layers.acquire(i);
  for (const std::size_t i : {0u, 1u}) {
    const std::size_t before = allocations_of_this_thread();
    layers.acquire(i);
    EXPECT_EQ(allocations_of_this_thread() - before, 0u);
  }
}

TEST_F(Binding, RefusesDTypesThatDoNotConvert) {
  Tensors tensors = tensors_of(*trained_);
  tensors["encoder.layer.1.linear.bias"] = torch::zeros({kWidth}, torch::kInt);
  EXPECT_EQ(thrown_by([&] { start(*model_, tensors); }).errc, Errc::kWeightMismatch);
}

// --- Poison ---

TEST_F(Binding, ShowsATensorThatWasKeptBeyondItsLeaseAsNaNWhenPoisoned) {
  StreamedModel streamed = start(1, {.poison = true}, landing_bytes(*model_->layer(0), 4));
  const auto layers = streamed.layers<TinyLayerImpl>();
  EXPECT_TRUE(weight(1).isnan().all().item<bool>());
  at::Tensor kept;
  {
    const auto layer = layers.acquire(1);
    kept = layer->linear->weight.detach();
    { const auto again = layers.acquire(1); }
    EXPECT_TRUE(at::equal(kept, trained_->layer(1)->linear->weight));
  }
  EXPECT_TRUE(kept.isnan().all().item<bool>());
  for (int pass = 0; pass < 2; ++pass) EXPECT_TRUE(at::equal(run(streamed), expected()));
  streamed.close();
  EXPECT_TRUE(at::equal(model_->forward_resident(some_input()), expected()));
}

TEST_F(Binding, HasSlotsPoisonedToo) {
  const StreamedModel streamed = start(2, {.poison = true}, landing_bytes(*model_->layer(0), 4));
  for (int use = 0; use < 2; ++use) {
    const auto layer = streamed.layers<TinyLayerImpl>().acquire(1);
    ASSERT_LT(layer.lease().slot(), streamed.streamer().plan().slots);
    EXPECT_TRUE(at::equal(weight(1), trained_->layer(1)->linear->weight));
  }
  EXPECT_EQ(streamed.streamer().stats().total.bytes.gpu, 0u);  // the second did not find it there
}

}  // namespace
}  // namespace tierstream
