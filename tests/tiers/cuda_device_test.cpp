#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/cuda/cuda_device.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "support/device_contract.h"

namespace tierstream::testing {

INSTANTIATE_TEST_SUITE_P(Cuda, DeviceContract,
                         ::testing::Values(DeviceUnderTest{
                             "Gpu0",
                             [](std::string& reason) -> std::shared_ptr<Device> {
                               if (cuda_device_count() > 0) return make_cuda_device(0);
                               reason = "no CUDA device";
                               return nullptr;
                             }}),
                         [](const auto& tested) { return tested.param.name; });

namespace {

using ::testing::HasSubstr;

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no CUDA device";
    device_ = make_cuda_device(0);
  }

  std::shared_ptr<Device> device_;
};

/// A stream of the caller, beside the legacy default stream.
class CallersStream {
 public:
  CallersStream() { EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess); }
  CallersStream(const CallersStream&) = delete;
  CallersStream& operator=(const CallersStream&) = delete;
  ~CallersStream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }
  operator Stream() const { return {stream_}; }

 private:
  cudaStream_t stream_ = nullptr;
};

TEST(CudaDevice, SaysWhyThereIsNone) {
  const int count = cuda_device_count();
  for (const int ordinal : {-1, count}) {
    try {
      make_cuda_device(ordinal);
      FAIL() << "there is a device " << ordinal << " of " << count;
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::kDeviceFailed);
      EXPECT_THAT(error.what(), HasSubstr("cuda"));
    }
  }
}

TEST_F(CudaDeviceTest, SaysWhatItNeedsAndHas) {
  try {
    device_->allocate(std::size_t{1} << 50);
    FAIL() << "a petabyte was given";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kOutOfMemory);
    EXPECT_THAT(error.what(), HasSubstr("cuda:0: 1.00 PiB (1125899906842624 bytes) needed, "));
  }
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(CudaDeviceTest, ReadsDoNotLandInItsMemory) {
  EXPECT_EQ(device_->traits().name, "cuda:0");
  EXPECT_FALSE(device_->traits().reads_land);
}

TEST_F(CudaDeviceTest, SaysWhyMemoryIsNotRegisteredTwice) {
  const HostMemory memory(kMiB);
  std::string refusal;
  const HostRegistration first = device_->register_host(memory.span(), refusal);
  ASSERT_TRUE(first) << refusal;
  const HostRegistration second = device_->register_host(memory.span(), refusal);
  EXPECT_FALSE(second);
  EXPECT_THAT(refusal, HasSubstr("cudaErrorHostMemoryAlreadyRegistered"));
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(CudaDeviceTest, AStreamOfACallerGoesOnOnlyAfterTheCopiesItWaitsFor) {
  constexpr std::size_t kBytes = 64 * kMiB;
  const HostMemory source(kBytes);
  std::string refusal;
  const HostRegistration registration = device_->register_host(source.span(), refusal);
  ASSERT_TRUE(registration) << refusal;
  const DeviceMemory slot = device_->allocate(kBytes);
  const DeviceMemory used = device_->allocate(kBytes);
  const CallersStream compute;
  const auto queue = device_->make_copy_queue({});
  const auto copied = device_->make_event();
  std::vector<std::byte> seen(kBytes);
  for (unsigned round = 1; round <= 8; ++round) {
    std::ranges::fill(source.span(), static_cast<std::byte>(round));
    queue->copy(slot.data(), source.span().data(), kBytes);
    queue->record(*copied);
    copied->make_wait(compute);
    ASSERT_EQ(cudaMemcpyAsync(used.data(), slot.data(), kBytes, cudaMemcpyDeviceToDevice, compute),
              cudaSuccess);
    device_->download(seen, used.data(), compute);
    EXPECT_EQ(std::ranges::count(seen, static_cast<std::byte>(round)), static_cast<std::ptrdiff_t>(kBytes));
  }
}

TEST_F(CudaDeviceTest, AnEventIsNotDoneWhileItsStreamIsBusy) {
  constexpr std::size_t kBytes = 256 * kMiB;
  const DeviceMemory memory = device_->allocate(kBytes);
  const CallersStream compute;
  const auto event = device_->make_event();
  for (int round = 0; round < 200; ++round) {
    ASSERT_EQ(cudaMemsetAsync(memory.data(), round, kBytes, compute), cudaSuccess);
  }
  event->record(compute);
  EXPECT_FALSE(event->done());
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "not being ready was left behind as a failure";
  ASSERT_EQ(cudaStreamSynchronize(compute), cudaSuccess);
  EXPECT_TRUE(event->done());
}

TEST_F(CudaDeviceTest, RefusesAStreamThatIsBeingCaptured) {
  const CallersStream compute;
  ASSERT_EQ(cudaStreamBeginCapture(compute, cudaStreamCaptureModeGlobal), cudaSuccess);
  try {
    device_->refuse_capture(compute);
    ADD_FAILURE() << "was not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kStreamCapturing);
  }
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(compute, &graph), cudaSuccess) << "asking broke the capture";
  cudaGraphDestroy(graph);
  EXPECT_NO_THROW(device_->refuse_capture(compute));
}

TEST_F(CudaDeviceTest, AStagingThreadDoesNotBreakTheCaptureOfAnother) {
  const CallersStream compute;
  const HostMemory source(kMiB);
  const DeviceMemory memory = device_->allocate(kMiB);
  const auto queue = device_->make_copy_queue({});
  const auto event = device_->make_event();
  ASSERT_EQ(cudaStreamBeginCapture(compute, cudaStreamCaptureModeGlobal), cudaSuccess);
  std::jthread([&] {
    device_->enter_staging_thread();
    queue->copy(memory.data(), source.span().data(), kMiB);
    queue->record(*event);
    while (!event->done()) std::this_thread::yield();
  }).join();
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(compute, &graph), cudaSuccess);
  cudaGraphDestroy(graph);
}

TEST_F(CudaDeviceTest, LeavesTheCurrentDeviceOfTheCallerAlone) {
  if (cuda_device_count() < 2) GTEST_SKIP() << "one CUDA device only";
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  const DeviceMemory memory = device_->allocate(kMiB);
  const auto event = device_->make_event();
  event->record(Stream{});
  const auto queue = device_->make_copy_queue({});
  int current = -1;
  ASSERT_EQ(cudaGetDevice(&current), cudaSuccess);
  EXPECT_EQ(current, 1);
  cudaPointerAttributes attributes = {};
  ASSERT_EQ(cudaPointerGetAttributes(&attributes, memory.data()), cudaSuccess);
  EXPECT_EQ(attributes.device, 0);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
}

}  // namespace
}  // namespace tierstream::testing
