#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>
#include <vector>

namespace tierstream {

/// The modules in a list of a model: a ModuleList, or a Sequential. Shares them with the model.
///
/// Threads: const members may be called from any thread while nobody changes the list.
class ModuleList {
 public:
  using Module = torch::nn::Module;

  /// `path`, e.g. "encoder.layer": the names under which modules were registered; empty: `model` itself,
  /// which a shared_ptr owns. Throws Error kNoSuchModule, naming the part that is missing and what is there
  /// instead, and kWrongModuleType, naming the path and the type found; both list the paths that do lead to a
  /// list.
  ModuleList(torch::nn::Module& model, std::string_view path);

  const std::string& path() const noexcept { return path_; }
  std::string path_of(std::size_t index) const { return prefix() + std::to_string(index); }
  /// With which the names of all that is in the list begin.
  std::string prefix() const { return path_.empty() ? "" : path_ + "."; }
  std::size_t size() const noexcept { return modules_.size(); }

  /// The module at `index` when this object was made. Throws Error kInvalidArgument with the valid range, and
  /// kModuleChanged when the list holds another one by now.
  const std::shared_ptr<torch::nn::Module>& at(std::size_t index) const;
  /// The same as a `Block`. Throws Error kWrongModuleType.
  template <class Block>
  Block& as(std::size_t index) const {
    torch::nn::Module& module = *at(index);
    if (auto* const block = dynamic_cast<Block*>(&module)) return *block;
    throw_wrong_type(index, typeid(Block));
  }

  /// The Sequential that the list is. Throws Error kWrongModuleType where it is a ModuleList.
  torch::nn::SequentialImpl& sequential() const;

 private:
  std::shared_ptr<torch::nn::Module> now_at(std::size_t index) const;
  [[noreturn]] void throw_wrong_type(std::size_t index, const std::type_info& wanted) const;

  std::string path_;
  std::shared_ptr<torch::nn::ModuleListImpl> list_;        // one of the two
  std::shared_ptr<torch::nn::SequentialImpl> sequential_;  // is null
  std::vector<std::shared_ptr<torch::nn::Module>> modules_;
};

}  // namespace tierstream
