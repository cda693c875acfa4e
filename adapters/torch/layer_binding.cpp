#include <ATen/ops/full.h>
#include <c10/core/InferenceMode.h>
#include <tierstream/adapters/torch/layer_binding.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <limits>
#include <map>
#include <utility>

#include "binding_plan.h"

namespace tierstream {
namespace {

/// Tensors of any shape over a single element per dtype: right in shape, dtype and device, and no memory. Not
/// "meta" tensors, whose data cannot be replaced by a device's. A weight used without a lease shows as NaN.
class Placeholders {
 public:
  explicit Placeholders(at::Device device) : device_(device) {}

  at::Tensor like(const at::Tensor& tensor) {
    const at::ScalarType type = tensor.scalar_type();
    at::Tensor& element = elements_[type];
    if (!element.defined()) {
      const double value = c10::isFloatingType(type) ? std::numeric_limits<double>::quiet_NaN() : 0.0;
      element = at::full({}, value, at::TensorOptions(type).device(device_));
    }
    return element.expand(tensor.sizes());
  }

 private:
  at::Device device_;
  std::map<at::ScalarType, at::Tensor> elements_;
};

}  // namespace

LayerBinding::LayerBinding(torch::nn::Module& model, std::string_view layers_path, Streamer& streamer,
                           const BindOptions& options)
    : streamer_(&streamer), device_(to_torch_device(streamer.device())) {
  const BindingPlan plan = plan_binding(model, layers_path, streamer.table(), options);
  refuse_mismatch(plan.layers_report);

  // Views and placeholders are ordinary tensors in every mode: a parameter would become an inference tensor
  // by taking the data of one.
  const c10::InferenceMode ordinary_tensors(false);
  Placeholders placeholders(device_);
  std::vector<std::pair<at::Tensor, at::Tensor>> bindings;  // made in full before the first takes effect
  layers_.resize(plan.layers.size());
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    std::optional<Lease> lease;
    for (const WeightPlace& place : plan.layers[i]) {
      switch (place.placement) {
        case Placement::kStreamed: {
          const at::Tensor placeholder = placeholders.like(place.tensor);
          layers_[i].weights.push_back({place.tensor, placeholder, *place.source});
          bindings.emplace_back(place.tensor, placeholder);
          break;
        }
        case Placement::kResident:
          if (!lease) lease = streamer.acquire(i, {.stream = stream()});
          bindings.emplace_back(place.tensor, to_tensor(lease->tensor(*place.source), device_).clone());
          break;
        case Placement::kOwn:
          if (place.is_buffer) bindings.emplace_back(place.tensor, place.tensor.to(device_));
          break;
        case Placement::kOutside:
          break;
      }
    }
  }
  for (auto& [tensor, data] : bindings) {
    tensor.set_requires_grad(false);
    tensor.set_data(data);
  }
}

BoundLayer LayerBinding::acquire(std::size_t index) {
  Lease lease = streamer_->acquire(index, {.stream = stream()});
  LayerState& layer = layers_[index];
  if (layer.leases == 0) bind(layer, lease);
  ++layer.leases;
  return {*this, std::move(lease)};
}

Stream LayerBinding::stream() const { return current_stream(device_); }

void LayerBinding::bind(LayerState& layer, const Lease& lease) {
  if (lease.generation() != layer.generation) {  // addresses of before mean nothing now
    layer.generation = lease.generation();
    layer.views_by_slot.assign(streamer_->plan().slots + 1, {});  // the last: nothing in a slot
  }
  std::vector<at::Tensor>& views = layer.views_by_slot[lease.slot()];
  if (views.empty()) {
    const c10::InferenceMode ordinary_tensors(false);
    views.reserve(layer.weights.size());
    for (const BoundWeight& weight : layer.weights) {
      views.push_back(to_tensor(lease.tensor(weight.tensor), device_));
    }
  }
  for (std::size_t i = 0; i < views.size(); ++i) layer.weights[i].parameter.set_data(views[i]);
}

void LayerBinding::release(Lease& lease) noexcept {
  LayerState& layer = layers_[lease.index()];
  try {
    if (--layer.leases == 0) {
      for (const BoundWeight& weight : layer.weights) weight.parameter.set_data(weight.placeholder);
    }
    lease.release(stream());
  } catch (const std::exception&) {
    // Refused, as inside a graph capture. The lease ends with its object, which then fails the streamer.
  }
}

BoundLayer::BoundLayer(BoundLayer&& other) noexcept
    : binding_(std::exchange(other.binding_, nullptr)), lease_(std::move(other.lease_)) {}

BoundLayer::~BoundLayer() {
  if (binding_ != nullptr) binding_->release(lease_);
}

}  // namespace tierstream
