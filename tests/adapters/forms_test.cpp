// One contract for all forms in which a model takes its streamed layers.
#include <gtest/gtest.h>
#include <tierstream/adapters/torch/streamed.h>
#include <tierstream/adapters/torch/streamed_script.h>
#include <tierstream/adapters/torch/streamed_sequential.h>
#include <torch/script.h>

#include <optional>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "adapters/tiny_model.h"
#include "support/allocations.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

constexpr std::size_t kLayers = 5;

/// What the forms of torch::nn share: a trained model and one that takes its weights from the checkpoint.
struct ModuleForm {
  static constexpr const char* kPath = "encoder.layer";

  Tensors weights() const { return tensors_of(*trained); }
  void stream_from(const Checkpoint& checkpoint, StreamerOptions streaming) {
    streamed.emplace(stream(*model, kPath, checkpoint, {.streaming = std::move(streaming)}));
  }
  at::Tensor trained_layer(std::size_t index, const at::Tensor& x) {
    return trained->layer(index)->forward(x);
  }
  /// The model's own layer, by itself, once it has been given back.
  at::Tensor own_layer(std::size_t index, const at::Tensor& x) { return model->layer(index)->forward(x); }
  at::Tensor a_weight(std::size_t index) { return model->layer(index)->linear->weight; }

  TinyModel trained{kLayers};
  TinyModel model{kLayers};
  std::optional<StreamedModel> streamed;
};

struct Range : ModuleForm {
  at::Tensor run(at::Tensor x, std::size_t count = kLayers) {
    for (auto&& layer : streamed->layers<TinyLayerImpl>()) {
      if (layer.index() == count) break;
      x = layer->forward(x);
    }
    return x;
  }
  at::Tensor run_layer(std::size_t index, const at::Tensor& x) {
    return streamed->layers<TinyLayerImpl>().acquire(index)->forward(x);
  }
  void lease(std::size_t index) { streamed->layers<TinyLayerImpl>().acquire(index); }
};

struct Holder : ModuleForm {
  void stream_from(const Checkpoint& checkpoint, StreamerOptions streaming) {
    ModuleForm::stream_from(checkpoint, std::move(streaming));
    holders.clear();
    for (std::size_t i = 0; i < kLayers; ++i) holders.emplace_back(model->layer(i)).attach(*streamed);
  }
  at::Tensor run(at::Tensor x, std::size_t count = kLayers) {
    for (std::size_t i = 0; i < count; ++i) x = i % 2 == 0 ? holders[i](x) : holders[i]->forward(x);
    return x;
  }
  at::Tensor run_layer(std::size_t index, const at::Tensor& x) { return holders[index](x); }
  at::Tensor own_layer(std::size_t index, const at::Tensor& x) { return holders[index](x); }
  void lease(std::size_t index) { holders[index].lease(); }

  std::vector<Streamed<TinyLayerImpl>> holders;
};

/// The same layers in a torch::nn::Sequential.
struct Sequential : ModuleForm {
  Sequential() {
    for (auto* const owner : {&trained, &model}) {
      torch::nn::Sequential blocks;
      for (std::size_t i = 0; i < kLayers; ++i) blocks->push_back((*owner)->layer(i));
      (*owner)->unregister_module("encoder");
      (*owner)->register_module("blocks", blocks);
    }
  }
  void stream_from(const Checkpoint& checkpoint, StreamerOptions streaming) {
    streamed.emplace(stream(*model, "blocks", checkpoint, {.streaming = std::move(streaming)}));
  }
  at::Tensor run(const at::Tensor& x) { return StreamedSequential(*streamed)(x); }
  /// A Sequential is left early by an exception alone: of the first layer that is not to run.
  at::Tensor run(const at::Tensor& x, std::size_t count) {
    const std::vector<std::int64_t> shape =
        std::exchange(model->layer(count)->norm->options.normalized_shape(), {kWidth + 1});
    EXPECT_ANY_THROW(run(x));
    model->layer(count)->norm->options.normalized_shape() = shape;
    EXPECT_EQ(streamed->streamer().stats().last_pass.layers, count + 1);
    return x;
  }
  at::Tensor run_layer(std::size_t index, const at::Tensor& x) {
    return streamed->layers<TinyLayerImpl>().acquire(index)->forward(x);
  }
  void lease(std::size_t index) { streamed->layers().acquire(index); }
};

torch::jit::Module make_script(const TinyModelImpl& from) {
  auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module layers("__torch__.Layers", unit);
  for (std::size_t i = 0; i < kLayers; ++i) {
    torch::jit::Module layer("__torch__.Layer" + std::to_string(i), unit);
    const auto block = from.layer(i);
    layer.register_parameter("weight", block->linear->weight.detach().clone().requires_grad_(), false);
    layer.register_parameter("bias", block->linear->bias.detach().clone(), false);
    layer.define("def forward(self, x):\n  return x + torch.gelu(torch.linear(x, self.weight, self.bias))\n");
    layers.register_module(std::to_string(i), layer);
  }
  torch::jit::Module model("__torch__.Model", unit);
  model.register_module("layers", layers);
  model.register_buffer("scale", torch::full({1}, 2.0f));
  return model;
}

struct Script {
  static constexpr const char* kPath = "layers";
  static torch::jit::Module layer_of(const torch::jit::Module& model, std::size_t index) {
    return model.attr("layers").toModule().attr(std::to_string(index)).toModule();
  }

  Tensors weights() const {
    Tensors tensors;
    for (const auto& item : trained.named_parameters()) tensors[item.name] = item.value.detach().clone();
    return tensors;
  }
  void stream_from(const Checkpoint& checkpoint, StreamerOptions streaming) {
    streamed.emplace(stream(model, kPath, checkpoint, {.streaming = std::move(streaming)}));
  }
  at::Tensor trained_layer(std::size_t index, const at::Tensor& x) {
    return layer_of(trained, index).forward({x}).toTensor();
  }
  at::Tensor own_layer(std::size_t index, const at::Tensor& x) {
    return layer_of(model, index).forward({x}).toTensor();
  }
  at::Tensor a_weight(std::size_t index) { return layer_of(model, index).attr("weight").toTensor(); }
  at::Tensor run(at::Tensor x, std::size_t count = kLayers) {
    for (auto&& layer : streamed->layers()) {
      if (layer.index() == count) break;
      x = layer->forward({x}).toTensor();
    }
    return x;
  }
  at::Tensor run_layer(std::size_t index, const at::Tensor& x) {
    return streamed->layers().acquire(index)->forward({x}).toTensor();
  }

  /// As programs have it: from a file, as Python writes it.
  static torch::jit::Module load_script(const TinyModelImpl& from) {
    std::stringstream file;
    make_script(from).save(file);
    return torch::jit::load(file);
  }
  void lease(std::size_t index) { streamed->layers().acquire(index); }

  torch::jit::Module trained = load_script(*TinyModel(kLayers));
  torch::jit::Module model = load_script(*TinyModel(kLayers));
  std::optional<StreamedScript> streamed;
};

/// For code that uses raw tensors: no module is bound, each tensor is where its lease says.
struct ExplicitLease : ModuleForm {
  static at::Tensor weight_of(const Lease& layer, std::string_view name) {
    return to_tensor(layer[name], at::kCPU);
  }
  at::Tensor run(at::Tensor x, std::size_t count = kLayers) {
    for (const Lease layer : streamed->streamer().pass()) {
      if (layer.index() == count) break;
      x = compute(layer, x);
    }
    return x;
  }
  at::Tensor run_layer(std::size_t index, const at::Tensor& x) {
    return compute(streamed->streamer().acquire(index), x);
  }
  void lease(std::size_t index) { streamed->streamer().acquire(index); }

  static at::Tensor compute(const Lease& layer, const at::Tensor& x) {
    const at::Tensor y = at::linear(x, weight_of(layer, "linear.weight"), weight_of(layer, "linear.bias"));
    return x + at::layer_norm(at::gelu(y), {kWidth}, weight_of(layer, "norm.weight"),
                              weight_of(layer, "norm.bias"));
  }
};

template <class Form>
class Forms : public testing::Test {
 protected:
  void start(std::uint32_t slots) {
    const Checkpoint checkpoint = write_checkpoint(directory_, form_.weights());
    form_.stream_from(checkpoint,
                      tiny_streaming(checkpoint.layers(checkpoint.layer_lists().front().prefix), slots));
  }
  at::Tensor run_trained(at::Tensor x) {
    for (std::size_t i = 0; i < kLayers; ++i) x = form_.trained_layer(i, x);
    return x;
  }
  Streamer& streamer() { return form_.streamed->streamer(); }

  TemporaryDirectory directory_;
  Form form_;
};
using AllForms = testing::Types<Range, Holder, Sequential, Script, ExplicitLease>;
TYPED_TEST_SUITE(Forms, AllForms);

TYPED_TEST(Forms, ComputeTheBitsOfTheResidentModelAndMoveItsBytes) {
  const at::Tensor expected = this->run_trained(some_input());
  for (std::uint32_t slots = 1; slots <= kLayers; ++slots) {
    this->start(slots);
    std::uint64_t layer_bytes = 0;
    for (const Layer& layer : this->streamer().table().layers) layer_bytes += layer.bytes();
    for (int pass = 0; pass < 3; ++pass) {
      EXPECT_TRUE(at::equal(this->form_.run(some_input()), expected)) << slots << " slots, pass " << pass;
    }
    const PassStats total = this->streamer().stats().total;
    EXPECT_EQ(total.layers, 3 * kLayers);
    // With more slots, a layer may still be in its own: only what cannot have stayed is sure to move.
    const std::uint64_t moved = total.bytes.disk + total.bytes.page_cache;
    EXPECT_GE(moved, slots == 1 ? 3 * layer_bytes : layer_bytes / 2) << slots << " slots";
    this->form_.streamed.reset();
  }
}

TYPED_TEST(Forms, EndTheirLeaseWhenALayerThrows) {
  this->start(1);
  const at::Tensor wrong = torch::zeros({1, kWidth + 1});
  for (std::size_t i = 0; i < kLayers; ++i) EXPECT_ANY_THROW(this->form_.run_layer(i, wrong));
  EXPECT_ANY_THROW(this->form_.run(wrong));
  // With a single slot, a lease left behind would refuse every other layer.
  EXPECT_TRUE(at::equal(this->form_.run(some_input()), this->run_trained(some_input())));
}

TYPED_TEST(Forms, MayBeLeftEarly) {
  this->start(2);
  this->form_.run(some_input(), 2);
  EXPECT_TRUE(at::equal(this->form_.run(some_input()), this->run_trained(some_input())));
}

TYPED_TEST(Forms, TakeLayersInAnyOrderSkippedAndRepeated) {
  this->start(2);
  at::Tensor x = some_input();
  at::Tensor expected = some_input();
  for (const std::size_t index : {3u, 0u, 3u, 3u, 4u, 1u}) {
    x = this->form_.run_layer(index, x);
    expected = this->form_.trained_layer(index, expected);
  }
  EXPECT_TRUE(at::equal(x, expected));
  EXPECT_EQ(this->streamer().stats().total.layers, 6u);
}

TYPED_TEST(Forms, RunInInferenceModeAndWithoutGradients) {
  this->start(2);
  const at::Tensor expected = this->run_trained(some_input());
  for (const bool inference : {true, false, true}) {
    const c10::InferenceMode mode(inference);
    EXPECT_TRUE(at::equal(this->form_.run(some_input()), expected));
    const at::NoGradGuard no_gradients;
    EXPECT_TRUE(at::equal(this->form_.run(some_input()), expected));
    EXPECT_FALSE(this->form_.a_weight(0).is_inference());
  }
}

TYPED_TEST(Forms, RunOnAnotherThreadEachTime) {
  this->start(2);
  const at::Tensor expected = this->run_trained(some_input());
  for (int pass = 0; pass < 3; ++pass) {
    at::Tensor y;
    std::jthread([&] { y = this->form_.run(some_input()); }).join();
    EXPECT_TRUE(at::equal(y, expected));
  }
}

TYPED_TEST(Forms, GiveTheModelBackWhenClosed) {
  this->start(1);
  this->form_.run(some_input());
  this->form_.streamed->close();
  this->form_.streamed->close();
  EXPECT_EQ(thrown_by([&] { this->streamer().acquire(0); }).errc, Errc::kClosed);
  this->form_.streamed.reset();
  at::Tensor x = some_input();
  for (std::size_t i = 0; i < kLayers; ++i) x = this->form_.own_layer(i, x);
  EXPECT_TRUE(at::equal(x, this->run_trained(some_input())));
  EXPECT_TRUE(this->form_.a_weight(0).requires_grad());
}

TYPED_TEST(Forms, AllocateNothingForALayerWhoseSlotHasHeldIt) {
  this->start(1);
  for (std::size_t i = 0; i < 2; ++i) this->form_.lease(i);
  for (std::size_t i = 0; i < 2; ++i) {
    const std::size_t before = allocations_of_this_thread();
    this->form_.lease(i);
    EXPECT_EQ(allocations_of_this_thread() - before, 0u);
  }
}

TEST(Streamed, IsAPlainHolderUntilItIsAttached) {
  TinyModel model(1);
  const Streamed<TinyLayerImpl> holder(model->layer(0));
  EXPECT_TRUE(at::equal(holder(some_input()), model->layer(0)->forward(some_input())));
  EXPECT_FALSE(holder.is_empty());
}

TEST(Streamed, IsRegisteredAndMadeAsAModuleHolderIs) {
  torch::nn::ModuleList list;
  Streamed<torch::nn::LinearImpl> holder(4, 2);
  list->push_back(holder);
  EXPECT_EQ(list->ptr(0), holder.ptr());
}

TEST(Streamed, OfAModuleThatIsNotStreamedIsRefused) {
  TemporaryDirectory directory;
  TinyModel model(2);
  const Checkpoint checkpoint = write_checkpoint(directory, tensors_of(*model));
  const StreamedModel streamed = stream(*model, "encoder.layer", checkpoint,
                                        {.streaming = tiny_streaming(checkpoint.layers("encoder.layer"), 1)});
  Streamed<TinyLayerImpl> holder(std::make_shared<TinyLayerImpl>());
  EXPECT_EQ(thrown_by([&] { holder.attach(streamed); }).errc, Errc::kNoSuchModule);
  EXPECT_EQ(thrown_by([&] { StreamedSequential{streamed}; }),
            (Thrown{Errc::kWrongModuleType,
                    "\"encoder.layer\" is a torch::nn::ModuleList, not a torch::nn::Sequential"}));
}

TEST(StreamedSequential, MayBeTheWholeModelAndPassSeveralValuesOn) {
  using Two = std::tuple<at::Tensor, at::Tensor>;
  struct SplitImpl : torch::nn::Module {
    Two forward(const at::Tensor& x) { return {x, x + 1}; }
  };
  struct MixImpl : torch::nn::Module {
    at::Tensor w = register_parameter("w", torch::rand({kWidth, kWidth}));
    Two forward(const Two& both) { return {at::linear(std::get<0>(both), w), std::get<1>(both)}; }
  };
  torch::nn::Sequential model(torch::nn::Linear(kWidth, kWidth), torch::nn::GELU(), SplitImpl(), MixImpl(),
                              MixImpl());
  const auto [x, y] = model->forward<Two>(some_input());
  const StreamedModel streamed =
      stream(*model, "", {.streaming = {.budget = Budget::parse("gpu=24KiB,pinned=16MiB")}});
  ASSERT_GT(streamed.streamer().plan().streamed_layers(), 0u);
  const auto [a, b] = StreamedSequential(streamed).forward<Two>(some_input());
  EXPECT_TRUE(at::equal(a, x));
  EXPECT_TRUE(at::equal(b, y));
}

TEST(ScriptModuleListPath, ThatIsWrongNamesWhatIsThereAndTheLists) {
  const torch::jit::Module model = make_script(*TinyModel(kLayers));
  EXPECT_EQ(
      thrown_by([&] { ScriptModuleList(model, "encoder.layers"); }),
      (Thrown{
          Errc::kNoSuchModule,
          "no module \"encoder\" for \"encoder.layers\": __torch__.Model has layers; lists are at layers"}));
  EXPECT_EQ(thrown_by([&] { ScriptModuleList(model, "layers.0"); }),
            (Thrown{Errc::kWrongModuleType,
                    "\"layers.0\" is a __torch__.Layer0, whose modules are not called 0, 1, ...; lists are "
                    "at layers"}));
  EXPECT_EQ(thrown_by([&] { ScriptModuleList(model, "layers").at(9); }),
            (Thrown{Errc::kInvalidArgument, "layer 9 of \"layers\" is out of range: there are 0 to 4"}));
}

TEST(StreamedScript, StreamsFromItsOwnWeightsAndMovesWhatIsOutside) {
  torch::jit::Module model = make_script(*TinyModel(kLayers));
  at::Tensor expected = some_input();
  for (std::size_t i = 0; i < kLayers; ++i) {
    expected = Script::layer_of(model, i).forward({expected}).toTensor();
  }
  const StreamedScript streamed =
      stream(model, "layers", {.streaming = {.budget = Budget::parse("gpu=40KiB,pinned=16MiB")}});
  at::Tensor x = some_input();
  for (auto&& layer : streamed.layers()) x = layer->forward({x}).toTensor();
  EXPECT_TRUE(at::equal(x, expected));
  EXPECT_EQ(model.attr("scale").toTensor().item<float>(), 2.0f);
}

}  // namespace
}  // namespace tierstream
