#include <tierstream/streamer/lease.h>

#include <algorithm>
#include <array>
#include <exception>
#include <span>
#include <utility>

#include "streamer_core.h"

namespace tierstream {

Lease::Lease(std::shared_ptr<StreamerCore> core, std::shared_ptr<Staging> staging, std::uint32_t layer,
             std::uint32_t place, Stream stream)
    : core_(std::move(core)),
      staging_(std::move(staging)),
      layer_(layer),
      place_(place),
      stream_(stream),
      since_(core_->trace().now()) {}

Lease& Lease::operator=(Lease&& other) noexcept {
  Lease taken(std::move(other));
  std::swap(core_, taken.core_);
  std::swap(staging_, taken.staging_);
  std::swap(layer_, taken.layer_);
  std::swap(place_, taken.place_);
  std::swap(stream_, taken.stream_);
  std::swap(since_, taken.since_);
  return *this;
}

Lease::~Lease() {
  if (!staging_) return;
  const std::chrono::nanoseconds end = core_->trace().now();
  try {
    staging_->release(place_, std::array{stream_});
  } catch (...) {  // nobody can refuse this end: what goes wrong fails the streamer for good
    staging_->drop(place_, std::current_exception());
  }
  record(end);
}

void Lease::release(Stream current_stream) {
  if (!staging_) return;
  const std::array streams{stream_, current_stream};
  const std::chrono::nanoseconds end = core_->trace().now();
  staging_->release(place_, std::span(streams).first(current_stream == stream_ ? 1 : 2));
  record(end);
  staging_.reset();
}

void Lease::record(std::chrono::nanoseconds end) const noexcept {
  core_->trace().record(
      {.kind = TraceEvent::Kind::kLease, .layer = layer_, .slot = slot(), .begin = since_, .end = end});
}

std::uint64_t Lease::generation() const noexcept { return staging_->generation(); }

std::uint32_t Lease::slot() const noexcept { return std::min(place_, staging_->plan().slots); }

const Layer& Lease::layer() const noexcept { return core_->table().layers[layer_]; }

std::size_t Lease::size() const noexcept { return layer().tensors.size(); }

TensorView Lease::tensor(std::size_t index) const { return staging_->tensor(layer_, place_, index); }

TensorView Lease::operator[](std::string_view name) const { return tensor(find_tensor(layer(), name)); }

}  // namespace tierstream
