#pragma once

#include <tierstream/tiers/memory_room.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace tierstream {

/// A queue of work on a device that its caller orders: a cudaStream_t on CUDA (null: the legacy default
/// stream). On the CPU device a caller's work is done when the call returns, and the handle means nothing.
struct Stream {
  void* handle = nullptr;
  bool operator==(const Stream&) const = default;
};

/// A point in a stream: everything queued before `record`.
/// Threads: calls on one event are ordered by the caller; different events are independent.
class Event {
 public:
  virtual ~Event() = default;
  /// Never recorded counts as done.
  virtual bool done() const = 0;
  virtual void record(Stream stream) = 0;
  /// Makes `stream` go on only after this point. On the CPU device this blocks the calling thread.
  virtual void make_wait(Stream stream) const = 0;
  /// Time from `begin`, which the same device made with timing as it made this one, to this point. Blocks
  /// until both are done.
  virtual std::chrono::nanoseconds elapsed_since(const Event& begin) const = 0;
};

/// Copies from host to device memory in the order of the calls, beside all other streams: one copy engine.
/// Threads: used by one thread. Destroying it waits for the copies queued.
class CopyQueue {
 public:
  virtual ~CopyQueue() = default;
  /// Queues a copy and returns. The source must stay unchanged, and the destination untouched, until an event
  /// recorded after this call is done. On CUDA the source must be registered, or the call blocks.
  virtual void copy(std::byte* device_destination, const std::byte* host_source, std::size_t bytes) = 0;
  virtual void record(Event& event) = 0;
  /// True: the `on_progress` given at its making is called after copies finish. False: poll the events.
  virtual bool notifies() const = 0;
};

class Device;

/// Device memory, freed by the destructor. The device outlives it.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(Device& device, std::byte* data, std::size_t bytes)
      : device_(&device), data_(data), bytes_(bytes) {}
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory();

  std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }
  /// The memory stays where it is and is never freed: something may still write to it.
  void abandon() noexcept { device_ = nullptr; }

 private:
  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Host memory registered for DMA, unregistered by the destructor; empty when the device refused.
class HostRegistration {
 public:
  HostRegistration() = default;
  HostRegistration(Device& device, std::span<std::byte> memory) : device_(&device), memory_(memory) {}
  HostRegistration(HostRegistration&& other) noexcept;
  HostRegistration& operator=(HostRegistration&& other) noexcept;
  ~HostRegistration();
  explicit operator bool() const noexcept { return device_ != nullptr; }
  /// The memory stays registered for ever.
  void abandon() noexcept { device_ = nullptr; }

 private:
  Device* device_ = nullptr;
  std::span<std::byte> memory_;
};

/// Every byte of poisoned memory: NaN in fp32, fp16, bf16 and fp8 (e4m3fn, e5m2), -1 in integers.
inline constexpr std::byte kPoison{0xFF};

enum class HostAccess : std::uint8_t {
  kReadWrite,
  kReadOnly,  ///< the device only reads it, as it must where the memory itself is read-only
};

struct DeviceTraits {
  std::string name;                    ///< "cpu", "cuda:0"
  bool reads_land = false;             ///< storage may read straight into device memory
  bool is_host = false;                ///< its memory is the host's: one room for both
  std::size_t memory_alignment = 256;  ///< of `allocate`; bytes
  /// `allocate` takes multiples of this power of two from the device, for up to half of it pages: as CUDA
  /// does (measured).
  std::size_t allocation_bytes = 2u << 20;
};

/// Where the computing happens: memory, copies to it, and events. The seam between streaming and hardware.
/// Owned by a shared_ptr, because streamers, leases and the caller's own code use one device in turn.
/// Threads: any, where a member does not say otherwise.
/// Errors: Error kOutOfMemory (needed, free, total) and kDeviceFailed.
class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceTraits& traits() const = 0;

  virtual DeviceMemory allocate(std::size_t bytes) = 0;

  /// What `allocate` may still take.
  virtual MemoryRoom memory_room() = 0;

  /// Gives memory of `allocate` its pages, where the device would do so only at the first write; contents
  /// stay. May run beside copies and reads into it.
  virtual void populate(std::span<std::byte>) noexcept {}

  /// Registers host memory so that copies from it run at the link's speed. Refused: an empty registration,
  /// and `refusal` says why.
  virtual HostRegistration register_host(std::span<std::byte> memory, std::string& refusal,
                                         HostAccess access = HostAccess::kReadWrite) = 0;

  virtual std::unique_ptr<Event> make_event() = 0;
  /// An event that `elapsed_since` may be asked of.
  virtual std::unique_ptr<Event> make_timed_event() = 0;

  /// `on_progress` is called from a thread of the device, and must neither block nor call the device.
  virtual std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()> on_progress) = 0;

  /// Copies device memory to the host after all work of `stream`; blocks.
  virtual void download(std::span<std::byte> host_destination, const std::byte* device_source,
                        Stream stream) = 0;

  /// Sets every byte of device memory to `value`, after all work of `stream` and before what is queued on it
  /// later. On the CPU device it is done when the call returns.
  virtual void fill(std::span<std::byte> device_memory, std::byte value, Stream stream) = 0;

  /// Throws Error kStreamCapturing when `stream` is being captured into a graph.
  virtual void refuse_capture(Stream) const {}

  /// Called by a thread before it uses the device for staging; again does no harm.
  virtual void enter_staging_thread() {}

 private:
  friend class DeviceMemory;
  friend class HostRegistration;
  virtual void free_memory(std::byte* data, std::size_t bytes) noexcept = 0;
  virtual void unregister_host(std::span<std::byte> memory) noexcept = 0;
};

}  // namespace tierstream
