#pragma once

#include <tierstream/adapters/torch/model_weights.h>
#include <torch/csrc/jit/api/module.h>

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace tierstream {

/// The modules in a list of a TorchScript model: a module whose submodules are called 0, 1, ..., n-1.
/// Shares them with the model. Threads: as ModuleList's.
class ScriptModuleList {
 public:
  using Module = torch::jit::Module;

  /// `path`, e.g. "encoder.layer". Throws Error kNoSuchModule and kWrongModuleType, as ModuleList does.
  ScriptModuleList(const torch::jit::Module& model, std::string_view path);

  const std::string& path() const noexcept { return path_; }
  std::string path_of(std::size_t index) const { return path_ + "." + std::to_string(index); }
  std::size_t size() const noexcept { return modules_.size(); }

  /// The module at `index` when this object was made. Throws Error kInvalidArgument with the valid range, and
  /// kModuleChanged when the list holds another one by now.
  torch::jit::Module& at(std::size_t index) const;
  template <std::same_as<torch::jit::Module> Block>
  Block& as(std::size_t index) const {
    return at(index);
  }

 private:
  std::string path_;
  torch::jit::Module list_;
  std::vector<std::size_t> attributes_;  ///< of the list, by index: looking one up by its name allocates
  mutable std::vector<torch::jit::Module> modules_;  // handles; calling one is not const
};

/// As for modules of torch::nn. Tensors that are neither parameters nor buffers count as buffers.
ModelWeights weights_of(const torch::jit::Module& model, const std::vector<ScriptModuleList>& lists);

}  // namespace tierstream
