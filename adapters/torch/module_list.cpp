#include <c10/util/Type.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/module_list.h>
#include <tierstream/io/error.h>

#include <string>
#include <vector>

namespace tierstream {
namespace {

std::string children_of(const torch::nn::Module& module) {
  const std::vector<std::string> names = module.named_children().keys();
  return names.empty() ? "no modules" : fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

void throw_wrong_module_type(std::string_view path, const torch::nn::Module& found,
                             const std::type_info& wanted) {
  throw Error(Errc::kWrongModuleType,
              fmt::format("\"{}\" is a {}, not a {}", path, found.name(), c10::demangle(wanted.name())));
}

std::shared_ptr<torch::nn::ModuleListImpl> find_module_list(torch::nn::Module& model, std::string_view path) {
  std::shared_ptr<torch::nn::Module> found;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string name(path.substr(begin, end - begin));
    const torch::nn::Module& parent = found ? *found : model;
    const auto children = parent.named_children();
    const auto* child = children.find(name);
    if (child == nullptr) {
      throw Error(Errc::kNoSuchModule, fmt::format("no module \"{}\" for \"{}\": {} has {}", name, path,
                                                   parent.name(), children_of(parent)));
    }
    found = *child;
    begin = end + 1;
  }
  auto list = std::dynamic_pointer_cast<torch::nn::ModuleListImpl>(found);
  if (!list) throw_wrong_module_type(path, *found, typeid(torch::nn::ModuleListImpl));
  return list;
}

}  // namespace tierstream
