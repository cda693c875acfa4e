#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>

#include <memory>
#include <string_view>
#include <typeinfo>

namespace tierstream {

/// The list of layers at `path` of `model`, e.g. "encoder.layer": the names under which modules were
/// registered. Throws Error kNoSuchModule, naming the part that is missing and what is there instead, and
/// kWrongModuleType, naming the path and the type found.
std::shared_ptr<torch::nn::ModuleListImpl> find_module_list(torch::nn::Module& model, std::string_view path);

/// Throws Error kWrongModuleType: at `path` of a model there is `found`, not a `wanted`.
[[noreturn]] void throw_wrong_module_type(std::string_view path, const torch::nn::Module& found,
                                          const std::type_info& wanted);

}  // namespace tierstream
