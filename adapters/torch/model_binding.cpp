#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <tierstream/adapters/torch/model_binding.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/layer_layout.h>

#include <algorithm>
#include <utility>

#include "binding_builder.h"
#include "landing_buffers.h"
#include "layer_members.h"

namespace tierstream {
namespace {

at::Tensor copy_on_host(const at::Tensor& data, const at::Tensor& like) {
  return at::empty_strided(like.sizes(), like.strides(), like.options().device(at::kCPU)).copy_(data);
}

bool is_like(const at::Tensor& data, const at::Tensor& like) {
  return data.scalar_type() == like.scalar_type() && (data.strides() == like.strides() || data.numel() == 0);
}

}  // namespace

ModelBinding::ModelBinding(const ModelWeights& model, Streamer& streamer, const BindOptions& options)
    : streamer_(&streamer),
      device_(to_torch_device(streamer.device())),
      poison_(options.poison),
      layers_(streamer.layer_count()) {
  const BindingPlan plan = plan_binding(model, streamer.table(), options);
  refuse_mismatch(plan.report);
  // Views and placeholders are ordinary tensors in every mode: a parameter would become an inference tensor
  // by taking the data of one.
  const c10::InferenceMode ordinary_tensors(false);
  for (std::size_t i = 0; i < size(); ++i) {
    layers_[i].name = model.layers[i].name;
    layers_[i].members = model.layers[i].members;
  }
  BindingBuilder(*this, plan).build();
  set_landing();
}

ModelBinding::~ModelBinding() { abandon(); }

Stream ModelBinding::stream() const { return current_stream(device_); }

void ModelBinding::set_landing() {
  landing_bytes_ = 0;
  for (LayerState& layer : layers_) {
    std::uint64_t offset = 0;
    layer.by_slot.clear();
    layer.generation = 0;  // views are made anew
    for (StreamedWeight& weight : layer.weights) {
      weight.lands = weight.converts || poison_ || !weight.loras.empty();
      if (!weight.lands) continue;
      weight.landing_offset = offset;
      offset += landed_bytes(weight.like);
    }
    layer.lands = offset != 0;
    landing_bytes_ = std::max(landing_bytes_, offset);
  }
  landing_.reset();
  if (landing_bytes_ != 0) {
    landing_ = std::make_unique<LandingBuffers>(streamer_->device(), landing_bytes_);
  }
}

void ModelBinding::refuse_leases() const {
  for (const LayerState& layer : layers_) {
    if (layer.leases != 0) {
      throw Error(Errc::kLeasesOutstanding, fmt::format("{} is leased; end the lease first", layer.name));
    }
  }
}

Pass ModelBinding::begin_pass(std::vector<std::uint32_t> schedule) {
  return streamer_->pass({.schedule = std::move(schedule), .stream = stream()});
}

// --- Leases ---

void ModelBinding::refuse_changed(const LayerState& layer) const {
  const auto check = [](const at::Tensor& parameter, const void* bound, const std::string& name) {
    const char* what = nullptr;
    if (parameter.const_data_ptr() != bound) {
      what = "was given other data or moved while it was streamed";
    } else if (parameter.use_count() == 1) {
      what = "belongs to no module any more: a part of its layer was replaced while it was streamed";
    }
    if (what != nullptr) throw Error(Errc::kModuleChanged, what, {.tensor = name});
  };
  for (const StreamedWeight& weight : layer.weights) check(weight.parameter, weight.bound, weight.name);
  for (const std::size_t i : layer.staying) {
    check(staying_[i].tensor, staying_[i].bound, staying_[i].name);
  }
  if (layer.members) layer.members->refuse_reassigned();
}

BoundLayer ModelBinding::acquire(std::size_t index) {
  if (layers_.empty()) throw Error(Errc::kClosed, "the model is not streamed any more");
  if (index < size()) refuse_changed(layers_[index]);
  return lease(index);
}

BoundLayer ModelBinding::lease(std::size_t index) {
  const Stream current = stream();
  Lease lease = streamer_->acquire(index, {.stream = current});
  LayerState& layer = layers_[index];
  if (layer.leases != 0 && layer.generation != lease.generation()) {
    throw Error(
        Errc::kLeasesOutstanding,
        fmt::format("layer {} is leased from before the budget was changed; end that lease first", index));
  }
  bind(index, lease);
  return {*this, std::move(lease), current};
}

const ModelBinding::SlotViews& ModelBinding::views_of(LayerState& layer, const Lease& lease) {
  if (lease.generation() != layer.generation) {  // addresses of before mean nothing now
    layer.generation = lease.generation();
    layer.by_slot.assign(streamer_->plan().slots + 1, {});  // the last: nothing in a slot
  }
  SlotViews& views = layer.by_slot[lease.slot()];
  if (!views.bound.empty()) return views;
  SlotViews made;
  for (const StreamedWeight& weight : layer.weights) {
    const TensorView view = lease.tensor(weight.tensor);
    at::Tensor stored =
        weight.converts ? to_tensor(view, device_) : to_tensor_like(weight.like, view.data, device_);
    if (weight.lands) {
      std::byte* const landing = landing_->memory(lease.slot()).data() + weight.landing_offset;
      made.bound.push_back(to_tensor_like(weight.like, landing, device_));
      made.stored.push_back(std::move(stored));
    } else {
      made.bound.push_back(std::move(stored));
      made.stored.emplace_back();
    }
  }
  return views = std::move(made);
}

void ModelBinding::land(const SlotViews& views, LayerState& layer, const Lease& lease) {
  if (!landing_->begin(lease.slot(), lease.index(), stream())) return;
  try {
    for (std::size_t i = 0; i < layer.weights.size(); ++i) {
      const StreamedWeight& weight = layer.weights[i];
      if (weight.lands) views.bound[i].copy_(views.stored[i]);
      for (const AppliedLora& lora : weight.loras) views.bound[i].addmm_(lora.b, lora.a, 1, lora.factor);
    }
    landing_->landed(lease.slot(), stream());
  } catch (...) {
    landing_->cancel(lease.slot(), stream());
    throw;
  }
}

void ModelBinding::bind(std::size_t index, const Lease& lease) {
  LayerState& layer = layers_[index];
  std::optional<c10::InferenceMode> ordinary_tensors;
  if (layer.lands || layer.generation != lease.generation() || layer.by_slot[lease.slot()].bound.empty()) {
    ordinary_tensors.emplace(false);
  }
  const SlotViews& views = views_of(layer, lease);
  if (layer.lands) land(views, layer, lease);
  if (layer.leases++ != 0) return;
  for (std::size_t i = 0; i < layer.weights.size(); ++i) {
    StreamedWeight& weight = layer.weights[i];
    weight.parameter.set_data(views.bound[i]);
    weight.bound = views.bound[i].const_data_ptr();
  }
}

void ModelBinding::unbind(LayerState& layer) noexcept {
  for (StreamedWeight& weight : layer.weights) {
    weight.parameter.set_data(weight.unleased);
    weight.bound = weight.unleased.const_data_ptr();
  }
}

void ModelBinding::release(Lease& lease, Stream stream_at_acquire) noexcept {
  LayerState& layer = layers_[lease.index()];
  try {
    if (--layer.leases == 0) unbind(layer);
    const std::uint32_t slot = lease.slot();
    const Stream current = stream();
    lease.release(current);
    if (layer.lands && landing_->end(slot, stream_at_acquire, current) && poison_) {
      streamer_->device().fill(landing_->memory(slot), kPoison, current);
      landing_->forget(slot, current);
    }
  } catch (const std::exception&) {
    // Refused, as inside a graph capture. The lease ends with its object, which then fails the streamer.
  }
}

BoundLayer::BoundLayer(BoundLayer&& other) noexcept
    : binding_(std::exchange(other.binding_, nullptr)),
      lease_(std::move(other.lease_)),
      stream_(other.stream_) {}

BoundLayer::~BoundLayer() {
  if (binding_ != nullptr) binding_->release(lease_, stream_);
}

// --- Giving the model back ---

void ModelBinding::restore() {
  refuse_leases();
  drop_loras({});  // or the weights that are copied would have them
  const c10::InferenceMode ordinary_tensors(false);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    LayerState& layer = layers_[i];
    unbind(layer);  // whatever others have done to it
    std::optional<BoundLayer> leased;
    std::vector<at::Tensor> data;  // made in full, so that an error leaves the layer as it was
    for (const StreamedWeight& weight : layer.weights) {
      const at::Tensor& home = weight.home;
      if (home.defined()) {
        data.push_back(is_like(home, weight.like) ? home : copy_on_host(home, weight.like));
        continue;
      }
      if (!leased) leased.emplace(lease(i));
      data.push_back(copy_on_host(weight.parameter, weight.like));
    }
    leased.reset();
    for (std::size_t w = 0; w < data.size(); ++w) layer.weights[w].unleased = layer.weights[w].home = data[w];
  }
  abandon();
}

void ModelBinding::abandon() noexcept {
  try {
    const c10::InferenceMode ordinary_tensors(false);
    for (LayerState& layer : layers_) {
      for (StreamedWeight& weight : layer.weights) {
        if (weight.home.defined()) weight.unleased = weight.home;
        weight.parameter.set_data(weight.unleased);
        weight.parameter.set_requires_grad(weight.required_grad);
      }
    }
    for (StayingWeight& weight : staying_) {
      if (weight.is_bound) {
        const bool shows = weight.home.defined() && is_like(weight.home, weight.like);
        weight.tensor.set_data(shows ? weight.home : copy_on_host(weight.tensor, weight.like));
      }
      weight.tensor.set_requires_grad(weight.required_grad);
    }
  } catch (const std::exception&) {
    // The device has failed, or there is no memory: what is left keeps its last data.
  }
  layers_.clear();
  staying_.clear();
  landing_.reset();
}

}  // namespace tierstream
