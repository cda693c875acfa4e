// The adapter on a GPU: the same bits as the same model resident there, and nothing left behind.
#include <ATen/DeviceAccelerator.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>
#include <tierstream/adapters/torch/streamed_model.h>
#include <tierstream/tiers/cuda/cuda_device.h>
#include <torch/nn.h>

#include <map>
#include <memory>
#include <vector>

#include "adapters/tiny_model.h"
#include "support/captured_graph.h"

namespace tierstream {
namespace {

constexpr std::size_t kLayers = 6;
constexpr const char* kPath = "encoder.layer";
const at::Device kGpu(at::kCUDA, 0);

/// Models of two dtypes in the file; the module computes in float.
class CudaModel : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
    trained_->to(GetParam());
    write_checkpoint(directory_, tensors_of(*trained_));
    trained_->to(at::kFloat);
    resident_ = make_resident();
    input_ = some_input().to(kGpu);
    expected_ = resident_->forward_resident(input_);
    options_.streaming = {
        .device = make_cuda_device(0), .budget = {.gpu = 80'000, .pinned = 16u << 20}, .max_slots = 2};
  }
  std::shared_ptr<TinyModelImpl> make_resident() {
    auto resident = std::make_shared<TinyModelImpl>(kLayers);
    const Tensors weights = tensors_of(*trained_);
    const at::NoGradGuard no_gradients;
    for (auto& item : resident->named_parameters()) item.value().set_data(weights.at(item.key()).to(kGpu));
    return resident;
  }
  Checkpoint checkpoint() const { return Checkpoint::open(directory_.path("model.safetensors")); }
  at::Tensor run(const StreamedModel& streamed) {
    return model_->forward(input_, streamed.layers<TinyLayerImpl>());
  }

  TemporaryDirectory directory_;
  TinyModel trained_{kLayers};
  TinyModel model_{kLayers};
  std::shared_ptr<TinyModelImpl> resident_;
  at::Tensor input_;
  at::Tensor expected_;
  StreamOptions options_;
};
INSTANTIATE_TEST_SUITE_P(Stored, CudaModel, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& parameter) { return c10::toString(parameter.param); });

TEST_P(CudaModel, ComputesTheBitsOfTheResidentModelAndIsGivenBackOnTheCpu) {
  StreamedModel streamed = stream(*model_, kPath, checkpoint(), options_);
  for (int pass = 0; pass < 5; ++pass) EXPECT_TRUE(at::equal(run(streamed), expected_));
  EXPECT_GT(streamed.streamer().plan().streamed_layers(), 2u);
  EXPECT_GT(streamed.streamer().stats().last_pass.bytes.page_cache +
                streamed.streamer().stats().last_pass.bytes.disk,
            0u);
  EXPECT_TRUE(model_->head->weight.is_cuda());
  EXPECT_TRUE(model_->layer(1)->linear->weight.is_cpu());
  EXPECT_TRUE(streamed.layers<TinyLayerImpl>().acquire(1)->linear->weight.is_cuda());
  streamed.close();
  for (const at::Tensor& parameter : model_->parameters()) EXPECT_TRUE(parameter.is_cpu());
  EXPECT_TRUE(at::equal(model_->forward_resident(some_input()), trained_->forward_resident(some_input())));
}

TEST_P(CudaModel, StreamsFromRam) {
  const StreamedModel streamed = stream(*trained_, kPath, options_);
  for (int pass = 0; pass < 3; ++pass) {
    EXPECT_TRUE(at::equal(trained_->forward(input_, streamed.layers<TinyLayerImpl>()), expected_));
  }
}

TEST_P(CudaModel, RunsOnAnotherStreamAtEachCall) {
  const StreamedModel streamed = stream(*model_, kPath, checkpoint(), options_);
  const c10::impl::VirtualGuardImpl gpu(at::kCUDA);
  const auto layers = streamed.layers<TinyLayerImpl>();
  for (int round = 0; round < 50; ++round) {
    const c10::Stream stream = gpu.getStreamFromGlobalPool(kGpu, false);
    gpu.getDefaultStream(kGpu).synchronize();
    const c10::StreamGuard guard(stream);
    at::Tensor x = input_;
    for (std::size_t i = 0; i < kLayers; ++i) x = layers.acquire(i)->forward(x);
    const at::Tensor y = model_->head->forward(x);
    EXPECT_TRUE(at::equal(y, expected_)) << "round " << round;
  }
}

TEST_P(CudaModel, KeepsCapturedGraphsValidWhereSlotsAreStable) {
  options_.streaming.stable_slots = true;
  const StreamedModel streamed = stream(*model_, kPath, checkpoint(), options_);
  ASSERT_GT(streamed.streamer().plan().streamed_layers(), 2u);
  const auto layers = streamed.layers<TinyLayerImpl>();
  const c10::impl::VirtualGuardImpl gpu(at::kCUDA);
  gpu.getDefaultStream(kGpu).synchronize();
  const c10::StreamGuard guard(gpu.getStreamFromGlobalPool(kGpu, false));
  auto* const stream = static_cast<cudaStream_t>(current_stream(kGpu).handle);
  at::Tensor y = at::empty_like(input_);
  std::map<std::size_t, CapturedGraph> graphs;
  for (int pass = 0; pass < 4; ++pass) {
    for (std::size_t i = 0; i < kLayers; ++i) {
      const at::Tensor expected = resident_->layer(i)->forward(input_);  // also readies what a capture needs
      const auto layer = layers.acquire(i);
      const CapturedGraph& graph =
          graphs.try_emplace(i, stream, [&] { y.copy_(layer->forward(input_)); }).first->second;
      y.zero_();
      graph.launch(stream);
      EXPECT_TRUE(at::equal(y, expected)) << "pass " << pass << ", layer " << i;
    }
  }
}

TEST_P(CudaModel, KeepsWhatForwardWritesIntoBuffers) {
  for (std::size_t i = 0; i < kLayers; ++i) model_->layer(i)->register_buffer("calls", torch::zeros({1}));
  StreamedModel streamed = stream(*model_, kPath, checkpoint(), options_);
  for (int pass = 0; pass < 3; ++pass) {
    for (auto&& layer : streamed.layers<TinyLayerImpl>()) {
      at::Tensor calls = layer->named_buffers()["calls"];
      ASSERT_TRUE(calls.is_cuda());
      calls.add_(1);
    }
  }
  streamed.close();
  for (std::size_t i = 0; i < kLayers; ++i) {
    const at::Tensor calls = model_->layer(i)->named_buffers()["calls"];
    EXPECT_TRUE(calls.is_cpu());
    EXPECT_EQ(calls.item<float>(), 3.0f);
  }
}

/// A little that stays each time would show, were it of the device's memory or of torch's.
TEST_P(CudaModel, LeavesNothingOnTheDeviceHoweverOftenItIsStreamed) {
  const Lora lora{
      {{"encoder.layer.2.linear.weight", torch::rand({4, kWidth}), torch::rand({kWidth, 4}), 0.5}}};
  const auto used_bytes = [] {
    at::accelerator::synchronizeDevice(0);
    at::accelerator::emptyCache();
    const auto [free, total] = at::accelerator::getMemoryInfo(0);
    return total - free;
  };
  const auto use_once = [&] {
    StreamedModel streamed = stream(*model_, kPath, checkpoint(), options_);
    streamed.add_lora(lora);
    run(streamed);
    streamed.close();
  };
  for (int i = 0; i < 3; ++i) use_once();
  const std::size_t before = used_bytes();
  for (int i = 0; i < 100; ++i) use_once();
  EXPECT_LE(used_bytes(), before + (2u << 20));
}

/// Layers whose copies take far longer than a kernel's launch.
struct WideModelImpl : torch::nn::Module {
  static constexpr std::int64_t kSide = 2048;
  WideModelImpl() {
    const auto options = torch::nn::LinearOptions(kSide, kSide).bias(false);
    for (std::size_t i = 0; i < kLayers; ++i) layers->push_back(torch::nn::Linear(options));
    register_module("layers", layers);
  }
  torch::nn::ModuleList layers;
};

TEST_P(CudaModel, MakesEachNewCurrentStreamWaitForTheLayersBytes) {
  auto model = std::make_shared<WideModelImpl>();
  const at::Tensor x = torch::ones({1, WideModelImpl::kSide}, kGpu);
  std::vector<at::Tensor> expected;
  for (const auto& layer : *model->layers) {
    expected.push_back(at::linear(x, layer->as<torch::nn::LinearImpl>()->weight.detach().to(kGpu)));
  }
  StreamOptions options = options_;
  options.streaming.budget = {.gpu = 3 * (16u << 20), .pinned = 1u << 30};
  const StreamedModel streamed = stream(*model, "layers", options);
  ASSERT_GT(streamed.streamer().plan().streamed_layers(), 3u);
  const c10::impl::VirtualGuardImpl gpu(at::kCUDA);
  gpu.getDefaultStream(kGpu).synchronize();
  for (int round = 0; round < 20; ++round) {
    for (std::size_t i = 0; i < kLayers; ++i) {
      const c10::StreamGuard guard(gpu.getStreamFromGlobalPool(kGpu, false));
      const auto layer = streamed.layers<torch::nn::LinearImpl>().acquire((i * 5 + 1) % kLayers);
      EXPECT_TRUE(at::equal(layer->forward(x), expected[layer.index()])) << "round " << round;
    }
  }
}

TEST_P(CudaModel, SharesALayerBetweenTwoStreams) {
  const StreamedModel streamed = stream(*model_, kPath, checkpoint(), options_);
  const c10::impl::VirtualGuardImpl gpu(at::kCUDA);
  const auto layers = streamed.layers<TinyLayerImpl>();
  for (int round = 0; round < 50; ++round) {
    const std::size_t i = static_cast<std::size_t>(round) % kLayers;
    const auto on_default = layers.acquire(i);
    const at::Tensor a = on_default->forward(input_);
    const c10::Stream stream = gpu.getStreamFromGlobalPool(kGpu, false);
    at::Tensor b;
    {
      const c10::StreamGuard guard(stream);
      const auto on_other = layers.acquire(i);
      b = on_other->forward(input_);
      stream.synchronize();
    }
    EXPECT_TRUE(at::equal(a, b)) << "round " << round;
  }
}

TEST_P(CudaModel, TakesUpdatesAndLoras) {
  StreamedModel streamed = stream(*model_, kPath, checkpoint(), options_);
  const at::Tensor value = torch::rand({kWidth, kWidth});
  const Lora lora{
      {{"encoder.layer.2.linear.weight", torch::rand({4, kWidth}), torch::rand({kWidth, 4}), 0.5}}};
  streamed.update(2, "linear.weight", value);
  const auto id = streamed.add_lora(lora, 0.7);
  at::Tensor weight = resident_->layer(2)->linear->weight.detach();
  weight.copy_(value);
  const LoraWeight& change = lora.weights.front();
  weight.addmm_(change.b.to(kGpu), change.a.to(kGpu), 1, 0.7 * change.scaling);
  EXPECT_TRUE(at::equal(run(streamed), resident_->forward_resident(input_)));
  streamed.remove_lora(id);
  weight.copy_(value);
  EXPECT_TRUE(at::equal(run(streamed), resident_->forward_resident(input_)));
}

TEST_P(CudaModel, ShowsKeptTensorsAsNaNWhenPoisoned) {
  options_.binding.poison = true;
  const StreamedModel streamed = stream(*model_, kPath, checkpoint(), options_);
  const at::Tensor kept = streamed.layers<TinyLayerImpl>().acquire(1)->linear->weight.detach();
  EXPECT_TRUE(kept.isnan().all().item<bool>());
  for (int pass = 0; pass < 3; ++pass) EXPECT_TRUE(at::equal(run(streamed), expected_));
}

}  // namespace
}  // namespace tierstream
