// Changes of streamed weights between passes: new values, and LoRA.
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/model_binding.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <algorithm>

#include "landing_buffers.h"
#include "placeholders.h"

namespace tierstream {

ModelBinding::Update ModelBinding::prepare_update(std::size_t layer, std::string_view name,
                                                  const at::Tensor& value) const {
  refuse_leases();
  if (layer >= size()) {
    throw Error(Errc::kInvalidArgument, fmt::format("layer {} is out of range: there are {}", layer, size()));
  }
  const LayerState& state = layers_[layer];
  const std::string full_name = state.name + "." + std::string(name);
  const auto found = std::ranges::find(state.weights, full_name, &StreamedWeight::name);
  if (found == state.weights.end()) {
    throw Error(Errc::kTensorMissing, "is not streamed: what stays on the device is written to where it is",
                {.tensor = full_name});
  }
  if (value.sizes() != found->like.sizes()) {
    throw Error(Errc::kWeightMismatch,
                fmt::format("the weight has the shape [{}], the update [{}]",
                            fmt::join(found->like.sizes(), ", "), fmt::join(value.sizes(), ", ")),
                {.tensor = full_name});
  }
  const c10::InferenceMode ordinary_tensors(false);
  const at::Tensor& like = found->like;
  at::Tensor source = at::empty_strided(like.sizes(), like.strides(), like.options().device(at::kCPU));
  source.copy_(value.detach());
  const auto dtype = find_dtype(like.scalar_type());
  if (!dtype) throw Error(Errc::kUnknownDType, "has no dtype in the format", {.tensor = full_name});
  return {.change = {.layer = layer,
                     .tensor = found->tensor,
                     .dtype = *dtype,
                     .shape = like.sizes().vec(),
                     .bytes = source.nbytes(),
                     .source = static_cast<const std::byte*>(source.const_data_ptr())},
          .source = source};
}

void ModelBinding::apply(const Update& update) {
  const c10::InferenceMode ordinary_tensors(false);
  for (StreamedWeight& weight : layers_[update.change.layer].weights) {
    if (weight.tensor != update.change.tensor) continue;
    weight.home = update.source;
    weight.converts = false;  // it lies as in the module
    weight.unleased = poison_ ? weight.unleased : weight.home;
    weight.parameter.set_data(weight.unleased);
    weight.bound = weight.unleased.const_data_ptr();
  }
  set_landing();
}

ModelBinding::StreamedWeight* ModelBinding::find_in_checkpoint(std::string_view full_name) {
  const std::vector<Layer>& layers = streamer_->table().layers;
  for (std::size_t i = 0; i < size(); ++i) {
    if (!full_name.starts_with(layers[i].name + ".")) continue;
    for (StreamedWeight& weight : layers_[i].weights) {
      if (layers[i].full_name(layers[i].tensors[weight.tensor]) == full_name) return &weight;
    }
  }
  return nullptr;
}

ModelBinding::LoraId ModelBinding::add_lora(const Lora& lora, double strength) {
  refuse_leases();
  std::vector<std::string> unlike;
  std::vector<StreamedWeight*> targets;
  for (const LoraWeight& change : lora.weights) {
    StreamedWeight* const target = find_in_checkpoint(change.name);
    const bool fits = target != nullptr && target->like.dim() == 2 &&
                      c10::isFloatingType(target->like.scalar_type()) &&
                      target->like.size(0) == change.b.size(0) && target->like.size(1) == change.a.size(1);
    if (!fits) unlike.push_back(change.name);
    targets.push_back(target);
  }
  if (!unlike.empty()) {
    WeightReport report{.missing = {}, .unexpected = {}, .unlike = std::move(unlike)};
    throw Error(Errc::kWeightMismatch, "the LoRA does not fit the streamed weights: " + describe(report));
  }
  const c10::InferenceMode ordinary_tensors(false);
  std::vector<AppliedLora> made;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const LoraWeight& change = lora.weights[i];
    const auto options = at::TensorOptions(targets[i]->like.scalar_type()).device(device_);
    made.push_back({next_lora_, change.a.to(options, false, true), change.b.to(options, false, true),
                    strength * change.scaling});
  }
  synchronize(device_);  // whatever stream uses them next, they are there
  for (std::size_t i = 0; i < targets.size(); ++i) targets[i]->loras.push_back(std::move(made[i]));
  set_landing();
  return next_lora_++;
}

std::uint64_t ModelBinding::lora_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const LayerState& layer : layers_) {
    for (const StreamedWeight& weight : layer.weights) {
      for (const AppliedLora& lora : weight.loras) bytes += lora.a.nbytes() + lora.b.nbytes();
    }
  }
  return bytes;
}

void ModelBinding::remove_lora(LoraId id) {
  refuse_leases();
  landing_.reset();  // waits for all streams that may still read the matrices
  for (LayerState& layer : layers_) {
    for (StreamedWeight& weight : layer.weights) {
      std::erase_if(weight.loras, [&](const AppliedLora& lora) { return lora.id == id; });
    }
  }
  set_landing();
}

}  // namespace tierstream
