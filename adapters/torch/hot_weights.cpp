// Changes of streamed weights between passes: new values, and LoRA.
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/model_binding.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <optional>

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

namespace {

/// Of `weight`: B A is a matrix of its shape.
bool fits(const LoraWeight& change, const at::Tensor& weight) {
  return change.a.dim() == 2 && change.b.dim() == 2 && change.a.size(0) == change.b.size(1) &&
         weight.dim() == 2 && c10::isFloatingType(weight.scalar_type()) &&
         weight.size(0) == change.b.size(0) && weight.size(1) == change.a.size(1);
}

bool is_outside(std::string_view full_name, const LayerTable& table) {
  return std::ranges::any_of(table.outside.tensors, [&](const TensorSpec& spec) {
    return table.outside.full_name(spec) == full_name;
  });
}

std::string describe_difference(const LoraWeight& change, const at::Tensor& weight) {
  const auto shape = [](const at::Tensor& tensor) {
    return tensor.defined() ? fmt::format("[{}]", fmt::join(tensor.sizes(), ", ")) : "none";
  };
  return fmt::format("{} {} in the module, B {} and A {} in the LoRA", shape(weight),
                     c10::toString(weight.scalar_type()), shape(change.b), shape(change.a));
}

}  // namespace

ModelBinding::LoraId ModelBinding::add_lora(const Lora& lora, double strength) {
  refuse_leases();
  WeightReport report;
  std::vector<StreamedWeight*> targets;
  for (const LoraWeight& change : lora.weights) {
    StreamedWeight* const target = find_in_checkpoint(change.name);
    if (target == nullptr) {
      report.unstreamed.push_back(
          {change.name, is_outside(change.name, streamer_->table()) ? "lies outside the layers" : ""});
    } else if (!fits(change, target->like)) {
      report.unlike.push_back({change.name, describe_difference(change, target->like)});
    }
    targets.push_back(target);
  }
  if (!report.empty()) throw WeightMismatch("the LoRA does not fit the streamed weights: ", report);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const LoraWeight& change = lora.weights[i];
    const double factor = strength * change.scaling;
    if (factor != 0) targets[i]->loras.push_back({next_lora_, change.a, change.b, factor});
  }
  set_landing();
  return next_lora_++;
}

void ModelBinding::load_lora(LoraId id) {
  const c10::InferenceMode ordinary_tensors(false);
  for (LayerState& layer : layers_) {
    for (StreamedWeight& weight : layer.weights) {
      const auto options = at::TensorOptions(weight.like.scalar_type()).device(device_);
      for (AppliedLora& lora : weight.loras) {
        if (lora.id != id) continue;
        lora.a = lora.a.to(options, /*non_blocking=*/false, /*copy=*/true);
        lora.b = lora.b.to(options, /*non_blocking=*/false, /*copy=*/true);
      }
    }
  }
  synchronize(device_);  // whatever stream uses them next, they are there
}

std::uint64_t ModelBinding::lora_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const LayerState& layer : layers_) {
    for (const StreamedWeight& weight : layer.weights) {
      for (const AppliedLora& lora : weight.loras) {
        const auto elements = static_cast<std::uint64_t>(lora.a.numel() + lora.b.numel());
        bytes += elements * weight.like.itemsize();
      }
    }
  }
  return bytes;
}

void ModelBinding::remove_lora(LoraId id) {
  refuse_leases();
  drop_loras(id);
}

void ModelBinding::drop_loras(std::optional<LoraId> id) {
  landing_.reset();  // waits for all streams that may still read the matrices
  for (LayerState& layer : layers_) {
    for (StreamedWeight& weight : layer.weights) {
      std::erase_if(weight.loras, [&](const AppliedLora& lora) { return !id || lora.id == *id; });
    }
  }
  set_landing();
}

}  // namespace tierstream
