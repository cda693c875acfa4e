#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/tiers/device.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace tierstream {

/// What a tensor of `like`'s size takes of a landing buffer.
std::uint64_t landed_bytes(const at::Tensor& like);

/// How many buffers there may be: one a slot, and one.
inline std::uint64_t most_landing_buffers(std::uint32_t max_slots, std::size_t layers) {
  return std::min<std::uint64_t>(max_slots, layers) + 1;
}

/// Device memory where weights whose stored bytes are not those that the module computes with take their
/// final form: one buffer for each slot, and one more for layers that need no slot. A buffer is made at its
/// first use and keeps its address.
///
/// What a layer lands is written anew only after all that used the buffer before: on one stream by order, on
/// several by an event that is recorded at the end of each use. A layer that comes again to a buffer that
/// nothing else was written to finds its weights there.
/// Threads: one at a time.
class LandingBuffers {
 public:
  /// `device` outlives this object.
  LandingBuffers(Device& device, std::uint64_t buffer_bytes) : device_(device), buffer_bytes_(buffer_bytes) {}

  std::uint64_t buffer_bytes() const noexcept { return buffer_bytes_; }
  /// Of buffer `slot`, which is made if need be; throws Error kOutOfMemory.
  std::span<std::byte> memory(std::uint32_t slot);

  /// A use begins: `stream` waits for all that used the buffer before. False: the layer's weights are there;
  /// true: the caller writes them, on `stream`, and then calls `landed`.
  /// Throws Error kTooManyLeases when another layer uses the buffer.
  bool begin(std::uint32_t slot, std::size_t layer, Stream stream);
  void landed(std::uint32_t slot, Stream stream);
  /// `begin` is undone: its caller could not go on. What it has queued on `stream` may still write there.
  void cancel(std::uint32_t slot, Stream stream);
  /// A use ends that was on both streams. True: it was the last one of the buffer, and `current` now waits
  /// for all of them.
  bool end(std::uint32_t slot, Stream at_begin, Stream current);

  /// The buffer was overwritten on `stream`.
  void forget(std::uint32_t slot, Stream stream);

 private:
  struct Buffer {
    DeviceMemory memory;
    std::unique_ptr<Event> used;  ///< null until the first use
    std::size_t layer = 0;
    bool is_valid = false;  ///< holds what `layer` lands
    std::uint32_t uses = 0;
  };
  Buffer& buffer(std::uint32_t slot);

  Device& device_;
  std::uint64_t buffer_bytes_;
  std::vector<Buffer> buffers_;
};

}  // namespace tierstream
