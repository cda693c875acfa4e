#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/device.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace tierstream {

class Staging;
class StreamerCore;

/// A tensor where it lies on the device. `spec` and memory belong to the lease (or streamer) it came from.
struct TensorView {
  const TensorSpec* spec;  ///< dtype, shape, name
  std::byte* data;         ///< row-major, as in the file; `spec->bytes` bytes; not to be written to
};

/// A layer that is ready on a stream, and stays in its slot until the lease ends.
///
/// Work queued on the stream given to `acquire` after the acquire sees the layer's bytes. When the lease
/// ends, its slot is rewritten only after all work queued so far on that stream - and on the one given to
/// `release` - is done. Move-only; may outlive the Streamer, whose memory then stays until the last lease
/// ends. Threads: one at a time; leases of different layers are independent.
class Lease {
 public:
  Lease(Lease&& other) noexcept = default;
  Lease& operator=(Lease&& other) noexcept;
  ~Lease();

  std::size_t index() const noexcept { return layer_; }
  const Layer& layer() const noexcept;
  /// Addresses are stable per layer, slot and generation: each change of the budget begins another, in which
  /// only residents of both plans lie where they lay.
  std::uint64_t generation() const noexcept;
  /// The slot that holds what is streamed of the layer; `plan().slots` where nothing is.
  std::uint32_t slot() const noexcept;

  std::size_t size() const noexcept;           ///< number of tensors
  TensorView tensor(std::size_t index) const;  ///< in the order of `layer().tensors`
  /// Throws Error kTensorMissing, listing the layer's tensors.
  TensorView operator[](std::string_view name) const;

  /// Ends the lease, for users who work on another stream than the one at acquire. Idempotent.
  /// Throws Error kStreamCapturing inside a graph capture; the lease then stays.
  void release(Stream current_stream);

 private:
  friend class Streamer;
  Lease(std::shared_ptr<StreamerCore> core, std::shared_ptr<Staging> staging, std::uint32_t layer,
        std::uint32_t place, Stream stream);

  void record(std::chrono::nanoseconds end) const noexcept;

  std::shared_ptr<StreamerCore> core_;  // shared: a lease may outlive the Streamer ...
  std::shared_ptr<Staging> staging_;    // ... and a change of the budget
  std::uint32_t layer_;
  std::uint32_t place_;
  Stream stream_;
  std::chrono::nanoseconds since_;  // for the trace
};

}  // namespace tierstream
