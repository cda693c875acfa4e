#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cuda/cuda_device.h>

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "small_model.h"
#include "support/byte_units.h"
#include "support/captured_graph.h"
#include "support/cuda_kernels.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

constexpr std::size_t kLayers = 7;
constexpr std::size_t kSumsBytes = SmallModel::kTensors * sizeof(std::uint64_t);

class CudaGraphTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = make_cuda_device(0);
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&sums_), kSumsBytes), cudaSuccess);
  }
  void TearDown() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
    cudaFree(sums_);
  }

  Streamer make(std::uint64_t gpu_mib) {
    return {model_.table,
            {.device = device_, .budget = {.gpu = gpu_mib * kMiB, .pinned = 8 * kMiB}, .stable_slots = true}};
  }
  /// A layer's compute: here, the checksums of its tensors.
  void queue_checksums(const Lease& lease) {
    for (std::size_t i = 0; i < lease.size(); ++i) {
      const TensorView view = lease.tensor(i);
      add_checksum(stream_, view.data, view.spec->bytes, sums_ + i);
    }
  }
  /// One pass that replays what the first one of this generation captured.
  void walk(Streamer& streamer) {
    for (Lease lease : streamer.pass({.stream = {stream_}})) {
      std::unique_ptr<CapturedGraph>& graph = graphs_[{lease.generation(), lease.index()}];
      if (!graph) graph = std::make_unique<CapturedGraph>(stream_, [&] { queue_checksums(lease); });
      ASSERT_EQ(cudaMemsetAsync(sums_, 0, kSumsBytes, stream_), cudaSuccess);
      graph->launch(stream_);
      std::array<std::uint64_t, SmallModel::kTensors> sums{};
      ASSERT_EQ(cudaMemcpyAsync(sums.data(), sums_, kSumsBytes, cudaMemcpyDeviceToHost, stream_),
                cudaSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
      for (std::size_t i = 0; i < lease.size(); ++i) {
        const TensorSpec& spec = *lease.tensor(i).spec;
        const auto content = std::span(model_.content_of("model"));
        EXPECT_EQ(sums[i], checksum(content.subspan(std::get<FileExtent>(spec.source).offset, spec.bytes)))
            << lease.index() << ' ' << spec.name;
      }
    }
  }

  SmallModel model_{kLayers, kMiB};
  std::shared_ptr<Device> device_;
  cudaStream_t stream_ = nullptr;
  std::uint64_t* sums_ = nullptr;
  std::map<std::pair<std::uint64_t, std::size_t>, std::unique_ptr<CapturedGraph>> graphs_;
};

TEST_F(CudaGraphTest, ReplaysOverSlotsAndResidentsUntilTheBudgetChanges) {
  for (const std::uint64_t gpu_mib : {14u, 18u, 40u}) {  // nothing, some, everything resident
    graphs_.clear();
    Streamer streamer = make(gpu_mib);
    for (int pass = 0; pass < 5; ++pass) walk(streamer);
    EXPECT_EQ(graphs_.size(), kLayers);
    streamer.set_budget({.gpu = (gpu_mib + 3) * kMiB, .pinned = 8 * kMiB});
    for (int pass = 0; pass < 3; ++pass) walk(streamer);
    EXPECT_EQ(graphs_.size(), 2 * kLayers);
  }
}

TEST_F(CudaGraphTest, RefusesToAcquireWithinACapture) {
  Streamer streamer = make(18);
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), cudaSuccess);
  EXPECT_EQ(thrown_by([&] { streamer.acquire(0, {.stream = {stream_}}); }).errc, Errc::kStreamCapturing);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  cudaGraphDestroy(graph);
  walk(streamer);
}

}  // namespace
}  // namespace tierstream
