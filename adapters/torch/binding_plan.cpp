#include "binding_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <unordered_map>

#include "landing_buffers.h"
#include "memory_overlaps.h"

namespace tierstream {
namespace {

std::string describe_shape(const at::Tensor& tensor) {
  return fmt::format("[{}] {}", fmt::join(tensor.sizes(), ", "), c10::toString(tensor.scalar_type()));
}

std::string describe_shape(const TensorSpec& spec) {
  return fmt::format("[{}] {}", fmt::join(spec.shape, ", "), name_of(spec.dtype));
}

bool is_alike(const at::Tensor& tensor, const TensorSpec& spec) {
  const auto type = find_scalar_type(spec.dtype);
  if (!type || tensor.sizes() != at::IntArrayRef(spec.shape)) return false;
  const bool converts = c10::isFloatingType(*type) && c10::isFloatingType(tensor.scalar_type());
  return tensor.scalar_type() == *type || converts;
}

/// Tensors whose data torch does not let anybody replace.
void refuse_fixed(const at::Tensor& tensor, const std::string& name) {
  const char* what = nullptr;
  if (tensor.is_meta()) what = "a meta tensor has no data to replace: make the module on the cpu";
  if (tensor.is_inference()) {
    what = "the data of an inference tensor cannot be replaced: make the module outside of inference mode";
  }
  if (what != nullptr) throw Error(Errc::kInvalidArgument, what, {.tensor = name});
}

/// Collects the distinct tensors of a model, and the source of each.
class Matcher {
 public:
  Matcher(const LayerTable& table, const BindOptions& options, BindingPlan& plan)
      : outside_(table.layers.size()), options_(options), plan_(plan) {}

  /// `layer`: where `weights` stand; its tensors are their possible sources.
  void match(std::size_t layer_index, std::string_view prefix, const std::vector<ModelWeight>& weights,
             const Layer& layer) {
    std::unordered_map<std::string_view, std::size_t> unmatched;
    for (std::size_t i = 0; i < layer.tensors.size(); ++i) unmatched.emplace(layer.tensors[i].name, i);

    const bool is_outside = layer_index == outside_ && options_.rename_outside != nullptr;
    const auto& rename = is_outside ? options_.rename_outside : options_.rename;
    for (const ModelWeight& weight : weights) {
      PlannedWeight& planned = find_or_add(layer_index, prefix, weight);
      const std::string sought = rename ? rename(weight.name) : weight.name;
      if (planned.sought.empty()) planned.sought = layer.name.empty() ? sought : layer.name + "." + sought;
      const auto found = unmatched.find(sought);
      if (found == unmatched.end()) continue;
      const PlannedSource source{layer_index, found->second};
      unmatched.erase(found);
      if (!planned.source) planned.source = source;  // outside comes first
      const TensorSpec& spec = layer.tensors[source.tensor];
      if (!is_alike(weight.tensor, spec)) {
        plan_.report.unlike.push_back(
            {layer.full_name(spec), fmt::format("{} in the module, {} in the checkpoint",
                                                describe_shape(weight.tensor), describe_shape(spec))});
      }
    }
    if (options_.allow_unexpected) return;
    for (const TensorSpec& spec : layer.tensors) {
      if (unmatched.contains(spec.name)) {
        plan_.report.unexpected.push_back({layer.full_name(spec), describe_shape(spec)});
      }
    }
  }

  /// After all have been matched.
  void note_use(std::size_t layer_index, const std::vector<at::Tensor>& tensors) {
    for (const at::Tensor& tensor : tensors) {
      const auto found = positions_.find(tensor.unsafeGetTensorImpl());
      if (found != positions_.end()) add_user(plan_.weights[found->second], layer_index);
    }
  }

 private:
  PlannedWeight& find_or_add(std::size_t layer_index, std::string_view prefix, const ModelWeight& weight) {
    const auto [found, is_new] =
        positions_.emplace(weight.tensor.unsafeGetTensorImpl(), plan_.weights.size());
    if (is_new) {
      std::string name = fmt::format("{}{}", prefix, weight.name);
      refuse_fixed(weight.tensor, name);
      const bool is_read_only = weight.is_buffer && options_.is_read_only && options_.is_read_only(name);
      plan_.weights.push_back({.name = std::move(name),
                               .tensor = weight.tensor,
                               .is_buffer = weight.is_buffer && !is_read_only,
                               .may_be_missing = weight.is_buffer || options_.allow_missing});
    }
    PlannedWeight& planned = plan_.weights[found->second];
    add_user(planned, layer_index);
    return planned;
  }

  static void add_user(PlannedWeight& weight, std::size_t layer_index) {
    if (std::ranges::find(weight.users, layer_index) == weight.users.end()) {
      weight.users.push_back(layer_index);
    }
  }

  std::size_t outside_;
  const BindOptions& options_;
  BindingPlan& plan_;
  std::unordered_map<const c10::TensorImpl*, std::size_t> positions_;
};

Placement placement_of(const PlannedWeight& weight, std::size_t outside, bool overlaps) {
  if (!weight.source) return Placement::kOwn;
  if (overlaps) return Placement::kLoaded;
  if (weight.source->layer == outside) return Placement::kOutside;
  return weight.is_buffer || weight.users.size() > 1 ? Placement::kLoaded : Placement::kStreamed;
}

/// True: the overlap's tensors that have a source fill the bytes of all of them.
bool has_sources(const Overlap& overlap, const std::vector<PlannedWeight>& weights) {
  std::vector<std::span<const std::byte>> extents;  // by address, as the group is
  for (const std::size_t i : overlap.weights) {
    if (weights[i].source) extents.push_back(extent_of(weights[i].tensor));
  }
  const std::byte* filled = overlap.begin;
  for (const auto extent : extents) {
    if (extent.data() > filled) return false;
    filled = std::max(filled, extent.data() + extent.size());
  }
  return filled == overlap.begin + overlap.bytes;
}

std::vector<Overlap> find_overlaps(const std::vector<PlannedWeight>& weights) {
  std::vector<at::Tensor> tensors;
  for (const PlannedWeight& weight : weights) tensors.push_back(weight.tensor);
  std::vector<Overlap> overlaps;
  for (std::vector<std::size_t>& group : group_by_memory(tensors)) {
    if (group.size() < 2) continue;
    const std::byte* const begin = extent_of(tensors[group.front()]).data();
    const std::byte* end = begin;
    for (const std::size_t i : group) {
      const auto extent = extent_of(tensors[i]);
      end = std::max(end, extent.data() + extent.size());
    }
    overlaps.push_back({begin, static_cast<std::uint64_t>(end - begin), std::move(group)});
  }
  return overlaps;
}

/// Of layers that only one of the two has.
void report_surplus_layers(const ModelWeights& model, const LayerTable& table, const BindOptions& options,
                           WeightReport& report) {
  for (std::size_t i = table.layers.size(); i < model.layers.size() && !options.allow_missing; ++i) {
    for (const ModelWeight& weight : model.layers[i].weights) {
      if (weight.is_buffer) continue;
      report.missing.push_back({model.layers[i].name + "." + weight.name, describe_shape(weight.tensor)});
    }
  }
  for (std::size_t i = model.layers.size(); i < table.layers.size() && !options.allow_unexpected; ++i) {
    for (const TensorSpec& spec : table.layers[i].tensors) {
      report.unexpected.push_back({table.layers[i].full_name(spec), describe_shape(spec)});
    }
  }
}

}  // namespace

BindingPlan plan_binding(const ModelWeights& model, const LayerTable& table, const BindOptions& options) {
  const std::size_t outside = table.layers.size();
  BindingPlan plan;
  plan.report.module_layers = model.layers.size();
  plan.report.checkpoint_layers = outside;
  const std::size_t common = std::min(model.layers.size(), outside);
  Matcher matcher(table, options, plan);
  matcher.match(outside, "", model.outside, table.outside);
  for (std::size_t i = 0; i < common; ++i) {
    matcher.match(i, model.layers[i].name + ".", model.layers[i].weights, table.layers[i]);
  }
  matcher.note_use(outside, model.also_used_outside);
  for (std::size_t i = 0; i < common; ++i) matcher.note_use(i, model.layers[i].also_used);

  plan.overlaps = find_overlaps(plan.weights);
  std::vector<bool> overlaps(plan.weights.size());
  std::vector<bool> has_values(plan.weights.size());
  for (const Overlap& overlap : plan.overlaps) {
    for (const std::size_t i : overlap.weights) {
      overlaps[i] = true;
      has_values[i] = has_sources(overlap, plan.weights);
    }
  }
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    PlannedWeight& weight = plan.weights[i];
    weight.placement = placement_of(weight, outside, overlaps[i]);
    if (weight.source || has_values[i] || weight.may_be_missing) continue;
    std::string what = describe_shape(weight.tensor);
    if (weight.sought != weight.name) what += ", looked for as " + weight.sought;
    plan.report.missing.push_back({weight.name, std::move(what)});
  }
  report_surplus_layers(model, table, options, plan.report);
  return plan;
}

void refuse_mismatch(const WeightReport& report) {
  if (!report.empty()) throw WeightMismatch("the checkpoint does not fit the module: ", report);
}

bool lies_as_in_module(const at::Tensor& tensor, const TensorSpec& source) {
  if (find_scalar_type(source.dtype) != tensor.scalar_type()) return false;
  const auto* const memory = std::get_if<const std::byte*>(&source.source);
  if (memory != nullptr && *memory == tensor.const_data_ptr()) return true;
  return tensor.is_contiguous() || !tensor.is_non_overlapping_and_dense();  // else strides mean nothing
}

const TensorSpec& spec_of(const PlannedSource& source, const LayerTable& table) {
  return (source.layer == table.layers.size() ? table.outside : table.layers[source.layer])
      .tensors[source.tensor];
}

std::uint64_t kept_bytes(const BindingPlan& plan, const LayerTable& table, const BindOptions& options,
                         at::Device device, std::uint32_t max_slots) {
  std::uint64_t staying = 0;
  std::vector<std::uint64_t> landing(table.layers.size());
  for (const PlannedWeight& weight : plan.weights) {
    const bool converts = weight.source && !lies_as_in_module(weight.tensor, spec_of(*weight.source, table));
    if (weight.placement == Placement::kStreamed) {
      if (converts || options.poison) landing[weight.source->layer] += landed_bytes(weight.tensor);
    } else if (weight.placement == Placement::kOwn ? weight.tensor.device() != device
                                                   : weight.placement == Placement::kLoaded || converts) {
      staying += weight.tensor.nbytes();
    }
  }
  const std::uint64_t largest = landing.empty() ? 0 : *std::ranges::max_element(landing);
  return staying + most_landing_buffers(max_slots, table.layers.size()) * largest;
}

LayerTable table_of(const ModelWeights& model, const BindOptions& options) {
  LayerTable table;
  for (const LayerWeights& layer : model.layers) table.layers.push_back({layer.name, {}});
  const BindingPlan plan = plan_binding(model, table, options);
  std::vector<bool> overlaps(plan.weights.size());
  for (const Overlap& overlap : plan.overlaps) {
    for (const std::size_t i : overlap.weights) overlaps[i] = true;
  }
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    const PlannedWeight& weight = plan.weights[i];
    const at::Tensor& tensor = weight.tensor;
    const std::size_t owner = weight.users.front();
    if (owner == model.layers.size() || weight.users.size() > 1 || weight.is_buffer || overlaps[i] ||
        !tensor.is_cpu() || !tensor.is_non_overlapping_and_dense() || tensor.nbytes() == 0) {
      continue;
    }
    const auto dtype = find_dtype(tensor.scalar_type());
    if (!dtype) continue;
    Layer& layer = table.layers[owner];
    layer.tensors.push_back({.name = weight.name.substr(layer.name.size() + 1),
                             .dtype = *dtype,
                             .shape = tensor.sizes().vec(),
                             .bytes = tensor.nbytes(),
                             .source = static_cast<const std::byte*>(tensor.const_data_ptr())});
  }
  return table;
}

}  // namespace tierstream
