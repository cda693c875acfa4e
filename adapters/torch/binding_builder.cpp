#include "binding_builder.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <tierstream/adapters/torch/tensors.h>

#include <algorithm>

namespace tierstream {
namespace {

bool lies_in(const at::Tensor& tensor, const TensorSpec& spec) {
  const auto* const memory = std::get_if<const std::byte*>(&spec.source);
  return memory != nullptr && *memory == tensor.const_data_ptr();
}

/// `tensor`'s place within a copy of the memory that it lies in.
at::Tensor view_within(const at::Tensor& copy, const std::byte* begin, const at::Tensor& tensor) {
  const auto offset = static_cast<const std::byte*>(tensor.const_data_ptr()) - begin;
  return at::for_blob(static_cast<std::byte*>(copy.data_ptr()) + offset, tensor.sizes())
      .strides(tensor.strides())
      .deleter([copy](void*) {})
      .options(at::TensorOptions(tensor.scalar_type()).device(copy.device()))
      .target_device(copy.device())
      .make_tensor();
}

}  // namespace

BindingBuilder::BindingBuilder(ModelBinding& binding, const BindingPlan& plan)
    : binding_(binding), plan_(plan), table_(binding.streamer_->table()), views_(table_) {}

void BindingBuilder::build() {
  std::vector<bool> overlaps(plan_.weights.size());
  for (const Overlap& overlap : plan_.overlaps) {
    for (const std::size_t i : overlap.weights) overlaps[i] = true;
    add_overlap(overlap);
  }
  for (std::size_t i = 0; i < plan_.weights.size(); ++i) {
    const PlannedWeight& weight = plan_.weights[i];
    if (overlaps[i]) continue;
    if (weight.placement == Placement::kStreamed) {
      add_streamed(weight);
    } else {
      add_staying(weight);
    }
  }
  lease_.reset();
  synchronize(binding_.device_);  // whatever stream uses them next, they are there
  for (auto& [tensor, data] : new_data_) {
    tensor.set_requires_grad(false);
    tensor.set_data(data);
  }
  for (ModelBinding::StayingWeight& weight : binding_.staying_) weight.bound = weight.tensor.const_data_ptr();
}

const TensorSpec& BindingBuilder::source_of(const PlannedWeight& weight) const {
  return spec_of(*weight.source, table_);
}

at::Tensor BindingBuilder::stored(const PlannedWeight& weight) {
  const auto [layer, tensor] = *weight.source;
  const AcquireOptions options{.stream = binding_.stream()};
  Streamer& streamer = *binding_.streamer_;
  if (layer == table_.layers.size()) {
    return to_tensor(streamer.outside(source_of(weight).name, options), binding_.device_);
  }
  if (!lease_ || lease_->index() != layer) {
    lease_.reset();
    lease_ = streamer.acquire(layer, options);
  }
  return to_tensor(lease_->tensor(tensor), binding_.device_);
}

at::Tensor BindingBuilder::loaded(const PlannedWeight& weight) {
  const at::Tensor like = shape_of(weight.tensor);
  return at::empty_strided(like.sizes(), like.strides(), like.options().device(binding_.device_))
      .copy_(stored(weight));
}

at::Tensor BindingBuilder::home_of(const PlannedWeight& weight) {
  if (weight.is_buffer) return {};
  if (!weight.source || lies_in(weight.tensor, source_of(weight))) return weight.tensor.variable_data();
  return views_.find(source_of(weight));
}

void BindingBuilder::add_streamed(const PlannedWeight& weight) {
  const at::Tensor home = home_of(weight);
  const bool is_placeholder = binding_.poison_ || !home.defined();
  const bool converts = !lies_as_in_module(weight.tensor, source_of(weight));
  ModelBinding::StreamedWeight streamed{
      .name = weight.name,
      .parameter = weight.tensor,
      .like = shape_of(weight.tensor),
      .unleased = is_placeholder ? placeholders_.like(weight.tensor) : home,
      .home = home,
      .required_grad = weight.tensor.requires_grad(),
      .tensor = weight.source->tensor,
      .converts = converts,
      .lands = false,  // set_landing decides
  };
  streamed.bound = streamed.unleased.const_data_ptr();
  new_data_.emplace_back(weight.tensor, streamed.unleased);
  binding_.layers_[weight.source->layer].weights.push_back(std::move(streamed));
}

void BindingBuilder::add_staying(const PlannedWeight& weight) {
  at::Tensor data;
  if (weight.placement == Placement::kOwn) {
    if (weight.tensor.device() != binding_.device_) data = weight.tensor.to(binding_.device_);
  } else if (weight.placement == Placement::kOutside && lies_as_in_module(weight.tensor, source_of(weight))) {
    data = stored(weight);
  } else {
    data = loaded(weight);
  }
  keep(weight, home_of(weight), data);
}

void BindingBuilder::keep(const PlannedWeight& weight, const at::Tensor& home, const at::Tensor& data) {
  if (!weight.is_buffer) {  // buffers may be assigned
    for (const std::size_t layer : weight.users) {
      if (layer < binding_.size()) binding_.layers_[layer].staying.push_back(binding_.staying_.size());
    }
  }
  binding_.staying_.push_back({.name = weight.name,
                               .tensor = weight.tensor,
                               .home = home,
                               .like = shape_of(weight.tensor),
                               .required_grad = weight.tensor.requires_grad(),
                               .is_bound = data.defined()});
  new_data_.emplace_back(weight.tensor, data.defined() ? data : weight.tensor.variable_data());
}

void BindingBuilder::add_overlap(const Overlap& overlap) {
  bool has_source = false;
  bool has_buffer = false;
  for (const std::size_t i : overlap.weights) {
    has_source |= plan_.weights[i].source.has_value();
    has_buffer |= plan_.weights[i].is_buffer;
  }
  const at::Device device = plan_.weights[overlap.weights.front()].tensor.device();
  const bool moves = has_source || device != binding_.device_;

  at::Tensor copy;
  if (moves) {  // also what no source fills
    copy = at::from_blob(const_cast<std::byte*>(overlap.begin), {static_cast<std::int64_t>(overlap.bytes)},
                         at::TensorOptions(at::kByte))
               .to(binding_.device_, at::kByte, /*non_blocking=*/false, /*copy=*/true);
  }
  for (const std::size_t i : overlap.weights) {
    const PlannedWeight& weight = plan_.weights[i];
    const at::Tensor data = moves ? view_within(copy, overlap.begin, weight.tensor) : at::Tensor();
    if (weight.source) data.copy_(stored(weight));  // what has a source moves
    const bool shows_original = moves && !has_source && !has_buffer;
    keep(weight, shows_original ? weight.tensor.variable_data() : at::Tensor(), data);
  }
}

}  // namespace tierstream
