#include "landing_buffers.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/layer_layout.h>

#include <array>

namespace tierstream {

std::uint64_t landed_bytes(const at::Tensor& like) {
  return (like.nbytes() + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
}

LandingBuffers::Buffer& LandingBuffers::buffer(std::uint32_t slot) {
  if (buffers_.size() <= slot) buffers_.resize(slot + 1);
  Buffer& buffer = buffers_[slot];
  if (!buffer.used) {
    buffer.memory = device_.allocate(buffer_bytes_);
    buffer.used = device_.make_event();
  }
  return buffer;
}

std::span<std::byte> LandingBuffers::memory(std::uint32_t slot) {
  return {buffer(slot).memory.data(), buffer_bytes_};
}

bool LandingBuffers::begin(std::uint32_t slot, std::size_t layer, Stream stream) {
  Buffer& buffer = this->buffer(slot);
  if (buffer.uses != 0 && buffer.layer != layer) {
    throw Error(Errc::kTooManyLeases,
                fmt::format("layers {} and {} would be leased at once, and share the memory in which weights "
                            "are converted; end the first before the second begins",
                            buffer.layer, layer));
  }
  buffer.used->make_wait(stream);
  const bool is_there = buffer.is_valid && buffer.layer == layer;
  buffer.layer = layer;
  buffer.is_valid = is_there;
  ++buffer.uses;
  return !is_there;
}

void LandingBuffers::landed(std::uint32_t slot, Stream stream) {
  buffers_[slot].used->record(stream);
  buffers_[slot].is_valid = true;
}

void LandingBuffers::cancel(std::uint32_t slot, Stream stream) {
  --buffers_[slot].uses;
  buffers_[slot].used->record(stream);
}

bool LandingBuffers::end(std::uint32_t slot, Stream at_begin, Stream current) {
  Buffer& buffer = buffers_[slot];
  const std::array streams{at_begin, current};
  for (const Stream stream : std::span(streams).last(at_begin == current ? 1 : 2)) {
    buffer.used->make_wait(stream);  // the event stands for the uses on all streams
    buffer.used->record(stream);
  }
  return --buffer.uses == 0;
}

void LandingBuffers::forget(std::uint32_t slot, Stream stream) {
  buffers_[slot].used->record(stream);
  buffers_[slot].is_valid = false;
}

}  // namespace tierstream
