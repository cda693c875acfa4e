#include "binding_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/module_list.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <unordered_map>

namespace tierstream {
namespace {

/// Every tensor of `module` except those whose names begin with `skipped_prefix`.
std::vector<WeightPlace> places_of(const torch::nn::Module& module, const std::string& skipped_prefix = {}) {
  std::vector<WeightPlace> places;
  const auto add = [&](const auto& named_tensors, bool is_buffer) {
    for (const auto& item : named_tensors) {
      const bool skipped = !skipped_prefix.empty() && item.key().starts_with(skipped_prefix);
      if (!skipped) places.push_back({.name = item.key(), .tensor = item.value(), .is_buffer = is_buffer});
    }
  };
  add(module.named_parameters(), false);
  add(module.named_buffers(), true);
  return places;
}

bool is_alike(const at::Tensor& tensor, const TensorSpec& spec) {
  return tensor.sizes() == at::IntArrayRef(spec.shape) &&
         tensor.scalar_type() == find_scalar_type(spec.dtype);
}

std::string describe_difference(const at::Tensor& tensor, const TensorSpec& spec) {
  return fmt::format("[{}] {} in the module, [{}] {} in the checkpoint", fmt::join(tensor.sizes(), ", "),
                     c10::toString(tensor.scalar_type()), fmt::join(spec.shape, ", "), name_of(spec.dtype));
}

/// Finds each place's source in `layer`; reports what differs and what has no place.
void match(std::vector<WeightPlace>& places, const Layer& layer, const BindOptions& options,
           WeightReport& report) {
  std::unordered_map<std::string_view, std::size_t> unmatched;
  for (std::size_t i = 0; i < layer.tensors.size(); ++i) unmatched.emplace(layer.tensors[i].name, i);

  for (WeightPlace& place : places) {
    const auto found = unmatched.find(options.rename ? options.rename(place.name) : place.name);
    if (found == unmatched.end()) continue;
    place.source = found->second;
    unmatched.erase(found);
    const TensorSpec& spec = layer.tensors[*place.source];
    if (!is_alike(place.tensor, spec)) {
      report.unlike.push_back(layer.full_name(spec) + ": " + describe_difference(place.tensor, spec));
    }
  }
  if (options.allow_unexpected) return;
  for (const TensorSpec& spec : layer.tensors) {
    if (unmatched.contains(spec.name)) report.unexpected.push_back(layer.full_name(spec));
  }
}

/// What is known of one tensor over all the places where it stands.
struct Sharing {
  const std::vector<WeightPlace>* first_owner = nullptr;  ///< the layer, or what is outside
  bool by_several_owners = false;
  bool has_source = false;
  bool has_source_outside = false;
};
using SharingByTensor = std::unordered_map<const c10::TensorImpl*, Sharing>;

SharingByTensor find_sharing(const BindingPlan& plan) {
  SharingByTensor sharing;
  const auto add = [&](const std::vector<WeightPlace>& owner, bool outside) {
    for (const WeightPlace& place : owner) {
      Sharing& shared = sharing[place.tensor.unsafeGetTensorImpl()];
      if (shared.first_owner == nullptr) shared.first_owner = &owner;
      shared.by_several_owners |= shared.first_owner != &owner;
      shared.has_source |= place.source.has_value();
      shared.has_source_outside |= outside && place.source.has_value();
    }
  };
  add(plan.outside, true);
  for (const auto& layer : plan.layers) add(layer, false);
  return sharing;
}

Placement placement_in_layer(const WeightPlace& place, const Sharing& shared) {
  if (shared.has_source_outside) return Placement::kOutside;
  if (!place.source) return Placement::kOwn;
  return place.is_buffer || shared.by_several_owners ? Placement::kResident : Placement::kStreamed;
}

}  // namespace

BindingPlan plan_binding(torch::nn::Module& model, std::string_view layers_path, const LayerTable& table,
                         const BindOptions& options) {
  const auto list = find_module_list(model, layers_path);
  if (list->size() != table.layers.size()) {
    throw Error(Errc::kWeightMismatch, fmt::format("the module has {} layers at \"{}\", the checkpoint {}",
                                                   list->size(), layers_path, table.layers.size()));
  }
  const std::string layers_prefix = std::string(layers_path) + ".";
  BindingPlan plan;
  plan.outside = places_of(model, layers_prefix);
  match(plan.outside, table.outside, options, plan.outside_report);
  for (std::size_t i = 0; i < list->size(); ++i) {
    match(plan.layers.emplace_back(places_of(*list->ptr(i))), table.layers[i], options, plan.layers_report);
  }

  const SharingByTensor sharing = find_sharing(plan);
  const auto is_missing = [&](const WeightPlace& place) {
    return !place.is_buffer && !sharing.at(place.tensor.unsafeGetTensorImpl()).has_source;
  };
  for (WeightPlace& place : plan.outside) {
    if (is_missing(place)) plan.outside_report.missing.push_back(place.name);
    if (place.source) place.placement = Placement::kOutside;
  }
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    for (WeightPlace& place : plan.layers[i]) {
      if (is_missing(place)) {
        plan.layers_report.missing.push_back(fmt::format("{}{}.{}", layers_prefix, i, place.name));
      }
      place.placement = placement_in_layer(place, sharing.at(place.tensor.unsafeGetTensorImpl()));
    }
  }
  return plan;
}

void refuse_mismatch(const WeightReport& report) {
  if (!report.empty()) {
    throw Error(Errc::kWeightMismatch, "the checkpoint does not fit the module: " + describe(report));
  }
}

}  // namespace tierstream
