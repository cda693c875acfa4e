#include "layer_members.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <torch/nn/modules.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>

namespace tierstream {
namespace {

template <class Module>
bool add_members_of(const torch::nn::Module& module, std::vector<const at::Tensor*>& members) {
  const auto* const known = module.as<Module>();
  if (known == nullptr) return false;
  if constexpr (requires { known->weight_ih; }) {
    members = {&known->weight_ih, &known->weight_hh, &known->bias_ih, &known->bias_hh};
  } else if constexpr (requires { known->in_proj_weight; }) {
    members = {&known->in_proj_weight, &known->in_proj_bias,  &known->bias_k,       &known->bias_v,
               &known->q_proj_weight,  &known->k_proj_weight, &known->v_proj_weight};
  } else {
    members = {&known->weight};
    if constexpr (requires { known->bias; }) members.push_back(&known->bias);
  }
  return true;
}

template <class... Modules>
std::vector<const at::Tensor*> members_of_any(const torch::nn::Module& module) {
  std::vector<const at::Tensor*> members;
  (add_members_of<Modules>(module, members) || ...);
  return members;
}

constexpr std::size_t kRegistrationAndItem = 2;  ///< handles, while a registry's copy is gone through

/// The parameters that torch's own modules have as public members.
std::vector<const at::Tensor*> known_members(const torch::nn::Module& module) {
  using namespace torch::nn;
  return members_of_any<LinearImpl, LayerNormImpl, EmbeddingImpl, Conv1dImpl, Conv2dImpl, Conv3dImpl,
                        ConvTranspose1dImpl, ConvTranspose2dImpl, ConvTranspose3dImpl, GroupNormImpl,
                        BatchNorm1dImpl, BatchNorm2dImpl, BatchNorm3dImpl, InstanceNorm1dImpl,
                        InstanceNorm2dImpl, InstanceNorm3dImpl, MultiheadAttentionImpl, BilinearImpl,
                        EmbeddingBagImpl, PReLUImpl, LSTMCellImpl, GRUCellImpl, RNNCellImpl>(module);
}

/// A list's parameters have no members.
bool is_parameter_list(const torch::nn::Module& module) {
  return module.as<torch::nn::ParameterListImpl>() != nullptr ||
         module.as<torch::nn::ParameterDictImpl>() != nullptr;
}

}  // namespace

std::vector<at::Tensor> assigned_members(const torch::nn::Module& module,
                                         const std::function<bool(const torch::nn::Module&)>& is_skipped) {
  if (is_skipped && is_skipped(module)) return {};
  const std::vector<at::Tensor> registered = module.parameters(/*recurse=*/false);
  std::vector<at::Tensor> assigned;
  for (const at::Tensor* const member : known_members(module)) {
    const bool is_own =
        std::ranges::any_of(registered, [&](const at::Tensor& own) { return member->is_same(own); });
    if (member->defined() && !is_own) assigned.push_back(*member);
  }
  for (const auto& child : module.children()) {
    for (at::Tensor& tensor : assigned_members(*child, is_skipped)) assigned.push_back(std::move(tensor));
  }
  return assigned;
}

LayerMembers::LayerMembers(const std::shared_ptr<torch::nn::Module>& layer, const std::string& name) {
  add(layer, name, /*is_held=*/false);  // who holds the layer itself is for its list to say
  std::optional<std::size_t> listed;    // handles that are no members
  for (const Parameter& parameter : parameters_) {
    if (parameter.member == nullptr) continue;
    listed = std::min(listed.value_or(parameter.handles - 1), parameter.handles - 1);
  }
  std::erase_if(parameters_, [&](const Parameter& parameter) {
    return parameter.member == nullptr && parameter.handles <= listed.value_or(0);
  });
}

void LayerMembers::add(const std::shared_ptr<torch::nn::Module>& module, const std::string& name,
                       bool is_held) {
  modules_.push_back({name, module, is_held});
  const std::vector<const at::Tensor*> known = known_members(*module);
  for (const auto& item : module->named_parameters(/*recurse=*/false)) {
    const at::Tensor& parameter = item.value();
    const auto member =
        std::ranges::find_if(known, [&](const at::Tensor* tensor) { return tensor->is_same(parameter); });
    if (member == known.end() && is_parameter_list(*module)) continue;
    parameters_.push_back({.name = name + "." + item.key(),
                           .registered = WeakTensor(parameter.getIntrusivePtr()),
                           .member = member == known.end() ? nullptr : *member,
                           .handles = parameter.use_count() - kRegistrationAndItem});
  }
  for (const auto& item : module->named_children()) {
    const auto holders = static_cast<std::size_t>(item.value().use_count());
    add(item.value(), name + "." + item.key(), holders > kRegistrationAndItem);
  }
}

void LayerMembers::refuse_reassigned() const {
  for (const Module& module : modules_) {
    const auto holders = module.module.use_count();
    if (holders > (module.is_held ? 1 : 0)) continue;
    throw Error(Errc::kModuleChanged,
                fmt::format("\"{}\": nothing but its registration holds this module any more, as if a member "
                            "was assigned another one while the layer was streamed",
                            module.name));
  }
  constexpr std::size_t kRegistrationAndBinding = 2;
  for (const Parameter& parameter : parameters_) {  // the modules are there, and with them their members
    if (parameter.member == nullptr) {
      if (parameter.registered.use_count() > kRegistrationAndBinding) continue;
      throw Error(
          Errc::kModuleChanged,
          "nothing but its registration holds it any more, as if a member was assigned another tensor "
          "while the layer was streamed",
          {.tensor = parameter.name});
    }
    if (parameter.member->unsafeGetTensorImpl() == parameter.registered._unsafe_get_target()) continue;
    throw Error(Errc::kModuleChanged,
                "its module uses it no more: a member was assigned another tensor while the layer was "
                "streamed",
                {.tensor = parameter.name});
  }
}

}  // namespace tierstream
