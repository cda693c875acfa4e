#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/script_module_list.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <unordered_set>

namespace tierstream {
namespace {

std::string type_of(const torch::jit::Module& module) {
  const auto name = module.type()->name();
  return name ? name->qualifiedName() : "module";
}

std::vector<std::string> children_of(const torch::jit::Module& module) {
  std::vector<std::string> names;
  for (const auto& child : module.named_children()) names.push_back(child.name);
  return names;
}

bool is_list(const torch::jit::Module& module) {
  const std::vector<std::string> names = children_of(module);
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] != std::to_string(i)) return false;
  }
  return !names.empty();
}

std::string lists_in(const torch::jit::Module& model) {
  std::vector<std::string> paths;
  for (const auto& item : model.named_modules()) {
    if (!item.name.empty() && is_list(item.value)) paths.push_back(item.name);
  }
  return paths.empty() ? "; the model has no lists"
                       : fmt::format("; lists are at {}", fmt::join(paths, ", "));
}

torch::jit::Module find_module(const torch::jit::Module& model, std::string_view path) {
  torch::jit::Module found = model;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string name(path.substr(begin, end - begin));
    const std::vector<std::string> children = children_of(found);
    if (std::ranges::find(children, name) == children.end()) {
      throw Error(Errc::kNoSuchModule,
                  fmt::format("no module \"{}\" for \"{}\": {} has {}{}", name, path, type_of(found),
                              children.empty() ? "no modules" : fmt::format("{}", fmt::join(children, ", ")),
                              lists_in(model)));
    }
    found = found.attr(name).toModule();
    begin = end + 1;
  }
  return found;
}

std::vector<ModelWeight> weights_in(const torch::jit::Module& module) {
  std::unordered_set<const c10::TensorImpl*> parameters;
  std::vector<ModelWeight> weights;
  for (const auto& item : module.named_parameters()) {
    parameters.insert(item.value.unsafeGetTensorImpl());
    weights.push_back({item.name, item.value, false});
  }
  for (const auto& item : module.named_attributes()) {
    if (!item.value.isTensor() || parameters.contains(item.value.toTensor().unsafeGetTensorImpl())) continue;
    weights.push_back({item.name, item.value.toTensor(), true});
  }
  return weights;
}

}  // namespace

ScriptModuleList::ScriptModuleList(const torch::jit::Module& model, std::string_view path)
    : path_(path), list_(find_module(model, path)) {
  if (!is_list(list_)) {
    throw Error(Errc::kWrongModuleType,
                fmt::format("\"{}\" is a {}, whose modules are not called 0, 1, ...{}", path, type_of(list_),
                            lists_in(model)));
  }
  for (const auto& child : list_.named_children()) {
    attributes_.push_back(list_.type()->getAttributeSlot(child.name));
    modules_.push_back(child.value);
  }
}

torch::jit::Module& ScriptModuleList::at(std::size_t index) const {
  if (index >= size()) {
    throw Error(Errc::kInvalidArgument, fmt::format("layer {} of \"{}\" is out of range: there are 0 to {}",
                                                    index, path_, size() - 1));
  }
  const c10::IValue& now = list_._ivalue()->getSlot(attributes_[index]);
  if (&now.toObjectRef() != modules_[index]._ivalue().get()) {
    throw Error(Errc::kModuleChanged,
                fmt::format("\"{}\" holds another module than the one that is streamed", path_of(index)));
  }
  return modules_[index];
}

ModelWeights weights_of(const torch::jit::Module& model, const std::vector<ScriptModuleList>& lists) {
  ModelWeights weights{.outside = weights_in(model), .layers = {}};
  for (const ScriptModuleList& list : lists) {
    const std::string prefix = list.path() + ".";
    std::erase_if(weights.outside,
                  [&](const ModelWeight& weight) { return weight.name.starts_with(prefix); });
    for (std::size_t i = 0; i < list.size(); ++i) {
      weights.layers.push_back({list.path_of(i), weights_in(list.at(i))});
    }
  }
  return weights;
}

}  // namespace tierstream
