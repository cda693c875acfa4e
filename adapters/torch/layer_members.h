#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace tierstream {

/// What torch's own modules, `module` and those within it, compute with though it is registered elsewhere:
/// weights that were tied by assigning a member, as C++ does it. `is_skipped` says where not to look.
std::vector<at::Tensor> assigned_members(
    const torch::nn::Module& module, const std::function<bool(const torch::nn::Module&)>& is_skipped = {});

/// The members through which a layer's code reaches its parameters and submodules. They are handles beside
/// those that the modules have registered, and may be assigned others: the layer then computes with what is
/// not streamed, while what is streamed stays registered.
///
/// Where torch's own modules have a parameter as a public member, that member is compared. Of all other
/// parameters, and of submodules, only the handles can be counted: one that something beside its registration
/// held when this object was made, and nothing holds now, is taken for reassigned. Handles that all compared
/// parameters of the layer had then beside their members (a list of `parameters()`) do not count.
/// Holds no handles itself. Threads: one at a time.
class LayerMembers {
 public:
  /// `name`: of the layer, in full. Made before a ModelBinding holds its parameters.
  LayerMembers(const std::shared_ptr<torch::nn::Module>& layer, const std::string& name);

  /// Throws Error kModuleChanged with the name. A ModelBinding holds one handle of each parameter.
  void refuse_reassigned() const;

 private:
  struct Module {
    std::string name;
    std::weak_ptr<torch::nn::Module> module;
    bool is_held;  ///< by more than its registration, in the beginning
  };
  using WeakTensor = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  struct Parameter {
    std::string name;
    WeakTensor registered;
    const at::Tensor* member;  ///< null: unknown
    std::size_t handles;       ///< beside its registration, in the beginning
  };

  void add(const std::shared_ptr<torch::nn::Module>& module, const std::string& name, bool is_held);

  std::vector<Module> modules_;        // the layer, and all within it: a module before its submodules
  std::vector<Parameter> parameters_;  // those that have a member, as far as can be told
};

}  // namespace tierstream
