#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/cuda/cuda_device.h>

#include <utility>

namespace tierstream {
namespace {

/// The runtime keeps a failure until it is asked for; left there, it would surface in someone's next kernel.
cudaError_t clear_failure(cudaError_t status) {
  if (status != cudaSuccess) static_cast<void>(cudaGetLastError());
  return status;
}

std::string text_of(cudaError_t status) {
  return fmt::format("{} ({})", cudaGetErrorString(status), cudaGetErrorName(status));
}

void check(cudaError_t status, const char* call) {
  if (clear_failure(status) == cudaSuccess) return;
  throw Error(Errc::kDeviceFailed, fmt::format("{}: {}", call, text_of(status)));
}

/// For destructors: nothing is left to do about a failure, and at the end of the process the runtime may be
/// gone before the last device.
void ignore(cudaError_t status) noexcept { clear_failure(status); }

/// Makes a device the calling thread's current one, and at its end the one that was.
class CurrentDevice {
 public:
  explicit CurrentDevice(int ordinal) : ordinal_(ordinal) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != ordinal_) check(cudaSetDevice(ordinal_), "cudaSetDevice");
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice() {
    if (before_ != ordinal_) ignore(cudaSetDevice(before_));
  }

 private:
  int ordinal_;
  int before_ = 0;
};

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

class CudaEvent final : public Event {
 public:
  CudaEvent(int ordinal, unsigned flags) : ordinal_(ordinal) {
    const CurrentDevice current(ordinal_);
    check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreateWithFlags");
  }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  ~CudaEvent() override { ignore(cudaEventDestroy(event_)); }

  bool done() const override {
    const cudaError_t status = clear_failure(cudaEventQuery(event_));
    if (status == cudaErrorNotReady) return false;
    check(status, "cudaEventQuery");
    return true;
  }

  // The null stream is the one of the current device.
  void record(Stream stream) override {
    const CurrentDevice current(ordinal_);
    check(cudaEventRecord(event_, native(stream)), "cudaEventRecord");
  }

  void make_wait(Stream stream) const override {
    const CurrentDevice current(ordinal_);
    check(cudaStreamWaitEvent(native(stream), event_, 0), "cudaStreamWaitEvent");
  }

  std::chrono::nanoseconds elapsed_since(const Event& begin) const override {
    const cudaEvent_t begin_event = static_cast<const CudaEvent&>(begin).event_;
    check(cudaEventSynchronize(begin_event), "cudaEventSynchronize");
    check(cudaEventSynchronize(event_), "cudaEventSynchronize");
    float elapsed_ms = 0;
    check(cudaEventElapsedTime(&elapsed_ms, begin_event, event_), "cudaEventElapsedTime");
    const std::chrono::duration<double, std::milli> elapsed(elapsed_ms);
    return std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed);
  }

 private:
  int ordinal_;
  cudaEvent_t event_ = nullptr;
};

class CudaCopyQueue final : public CopyQueue {
 public:
  explicit CudaCopyQueue(int ordinal) {
    const CurrentDevice current(ordinal);
    // Non-blocking: the legacy default stream neither waits for the copies nor holds them up.
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  CudaCopyQueue(const CudaCopyQueue&) = delete;
  CudaCopyQueue& operator=(const CudaCopyQueue&) = delete;
  ~CudaCopyQueue() override {
    ignore(cudaStreamSynchronize(stream_));
    ignore(cudaStreamDestroy(stream_));
  }

  void copy(std::byte* destination, const std::byte* source, std::size_t bytes) override {
    check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
  }
  void record(Event& event) override { event.record({stream_}); }
  // A host function on the stream would hold up the copies behind it, and may not call the runtime.
  bool notifies() const override { return false; }

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal) : ordinal_(ordinal), traits_{.name = fmt::format("cuda:{}", ordinal)} {
    const CurrentDevice current(ordinal_);
    check(cudaFree(nullptr), "cudaFree");  // makes the context, which is where a driver that is unfit fails
  }

  const DeviceTraits& traits() const override { return traits_; }

  DeviceMemory allocate(std::size_t bytes) override {
    if (bytes == 0) return {};
    const CurrentDevice current(ordinal_);
    void* data = nullptr;
    const cudaError_t status = clear_failure(cudaMalloc(&data, bytes));
    if (status == cudaErrorMemoryAllocation) {
      const auto [free, total] = free_and_total_bytes();
      throw Error(Errc::kOutOfMemory,
                  fmt::format("{}: {} needed, {} of {} are free", traits_.name, format_exactly(bytes),
                              format_exactly(free), format_bytes(total)));
    }
    check(status, "cudaMalloc");
    return {*this, static_cast<std::byte*>(data), bytes};
  }

  MemoryRoom memory_room() override {
    const CurrentDevice current(ordinal_);
    return {free_and_total_bytes().first, "free memory of " + traits_.name};
  }

  HostRegistration register_host(std::span<std::byte> memory, std::string& refusal,
                                 HostAccess access) override {
    const CurrentDevice current(ordinal_);
    const unsigned flags =
        cudaHostRegisterPortable | (access == HostAccess::kReadOnly ? cudaHostRegisterReadOnly : 0u);
    const cudaError_t status = clear_failure(cudaHostRegister(memory.data(), memory.size(), flags));
    if (status != cudaSuccess) {
      refusal = fmt::format("cudaHostRegister of {} bytes: {}", memory.size(), text_of(status));
      return {};
    }
    return {*this, memory};
  }

  std::unique_ptr<Event> make_event() override {
    return std::make_unique<CudaEvent>(ordinal_, cudaEventDisableTiming);
  }
  std::unique_ptr<Event> make_timed_event() override {
    return std::make_unique<CudaEvent>(ordinal_, cudaEventDefault);
  }

  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()>) override {
    return std::make_unique<CudaCopyQueue>(ordinal_);
  }

  void download(std::span<std::byte> destination, const std::byte* source, Stream stream) override {
    const CurrentDevice current(ordinal_);
    check(cudaMemcpyAsync(destination.data(), source, destination.size(), cudaMemcpyDeviceToHost,
                          native(stream)),
          "cudaMemcpyAsync");
    check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
  }

  void fill(std::span<std::byte> memory, std::byte value, Stream stream) override {
    const CurrentDevice current(ordinal_);
    check(cudaMemsetAsync(memory.data(), std::to_integer<int>(value), memory.size(), native(stream)),
          "cudaMemsetAsync");
  }

  void refuse_capture(Stream stream) const override {
    const CurrentDevice current(ordinal_);
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    const cudaError_t status = clear_failure(cudaStreamIsCapturing(native(stream), &capture));
    // Implicit: another stream is being captured, and any use of the legacy default stream would break that.
    if (status == cudaErrorStreamCaptureImplicit || capture != cudaStreamCaptureStatusNone) {
      throw Error(Errc::kStreamCapturing,
                  fmt::format("{}: the stream is being captured into a graph", traits_.name));
    }
    check(status, "cudaStreamIsCapturing");
  }

  /// Relaxed: what the staging thread asks of the runtime must not break a capture by another thread.
  void enter_staging_thread() override {
    check(cudaSetDevice(ordinal_), "cudaSetDevice");
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  }

 private:
  /// Of the current device.
  static std::pair<std::size_t, std::size_t> free_and_total_bytes() {
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {free, total};
  }

  void free_memory(std::byte* data, std::size_t) noexcept override { ignore(cudaFree(data)); }
  void unregister_host(std::span<std::byte> memory) noexcept override {
    ignore(cudaHostUnregister(memory.data()));
  }

  const int ordinal_;
  const DeviceTraits traits_;
};

}  // namespace

int cuda_device_count() noexcept {
  int count = 0;
  return clear_failure(cudaGetDeviceCount(&count)) == cudaSuccess ? count : 0;
}

std::shared_ptr<Device> make_cuda_device(int ordinal) {
  int count = 0;
  const cudaError_t status = clear_failure(cudaGetDeviceCount(&count));
  if (status != cudaSuccess) {
    throw Error(Errc::kDeviceFailed, "no CUDA device can be used: " + text_of(status));
  }
  if (ordinal < 0 || ordinal >= count) {
    throw Error(Errc::kDeviceFailed, fmt::format("there is no cuda:{}: this process can use {}", ordinal,
                                                 counted(static_cast<std::uint64_t>(count), "CUDA device")));
  }
  return std::make_shared<CudaDevice>(ordinal);
}

}  // namespace tierstream
