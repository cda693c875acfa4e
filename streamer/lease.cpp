#include <tierstream/streamer/lease.h>

#include <algorithm>
#include <array>
#include <utility>

#include "streamer_core.h"

namespace tierstream {

Lease::Lease(std::shared_ptr<StreamerCore> core, std::uint32_t layer, std::uint32_t place, Stream stream)
    : core_(std::move(core)), layer_(layer), place_(place), stream_(stream), since_(core_->trace().now()) {}

Lease& Lease::operator=(Lease&& other) noexcept {
  std::swap(core_, other.core_);
  std::swap(layer_, other.layer_);
  std::swap(place_, other.place_);
  std::swap(stream_, other.stream_);
  std::swap(since_, other.since_);
  return *this;
}

Lease::~Lease() {
  if (!core_) return;
  const std::chrono::nanoseconds end = core_->trace().now();
  core_->release_for_sure(place_, stream_);
  core_->trace().record(
      {.kind = TraceEvent::Kind::kLease, .layer = layer_, .slot = slot(), .begin = since_, .end = end});
}

void Lease::release(Stream current_stream) {
  if (!core_) return;
  const std::array streams{stream_, current_stream};
  const std::chrono::nanoseconds end = core_->trace().now();
  core_->release(place_, std::span(streams).first(current_stream == stream_ ? 1 : 2));
  core_->trace().record(
      {.kind = TraceEvent::Kind::kLease, .layer = layer_, .slot = slot(), .begin = since_, .end = end});
  core_.reset();
}

std::uint32_t Lease::slot() const noexcept { return std::min(place_, core_->plan().slots); }

const Layer& Lease::layer() const noexcept { return core_->table().layers[layer_]; }

std::size_t Lease::size() const noexcept { return layer().tensors.size(); }

TensorView Lease::tensor(std::size_t index) const { return core_->tensor(layer_, place_, index); }

TensorView Lease::operator[](std::string_view name) const { return tensor(find_tensor(layer(), name)); }

}  // namespace tierstream
