#include <c10/util/Type.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/module_list.h>
#include <tierstream/io/error.h>

#include <algorithm>

namespace tierstream {
namespace {

bool is_list(const torch::nn::Module& module) {
  return module.as<torch::nn::ModuleListImpl>() != nullptr ||
         module.as<torch::nn::SequentialImpl>() != nullptr;
}

std::string children_of(const torch::nn::Module& module) {
  const std::vector<std::string> names = module.named_children().keys();
  return names.empty() ? "no modules" : fmt::format("{}", fmt::join(names, ", "));
}

/// For the end of a message: the paths in `model` that lead to a list.
std::string lists_in(const torch::nn::Module& model) {
  constexpr std::size_t kShown = 5;
  std::vector<std::string> paths;
  for (const auto& item : model.named_modules({}, /*include_self=*/false)) {
    if (is_list(*item.value())) paths.push_back(item.key());
  }
  if (paths.empty()) return "; the model has no lists";
  const bool cut = paths.size() > kShown;
  if (cut) paths.resize(kShown);
  return fmt::format("; lists are at {}{}", fmt::join(paths, ", "), cut ? ", ..." : "");
}

std::shared_ptr<torch::nn::Module> find_module(const torch::nn::Module& model, std::string_view path) {
  std::shared_ptr<torch::nn::Module> found;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string name(path.substr(begin, end - begin));
    const torch::nn::Module& parent = found ? *found : model;
    const auto children = parent.named_children();
    const auto* child = children.find(name);
    if (child == nullptr) {
      throw Error(Errc::kNoSuchModule, fmt::format("no module \"{}\" for \"{}\": {} has {}{}", name, path,
                                                   parent.name(), children_of(parent), lists_in(model)));
    }
    found = *child;
    begin = end + 1;
  }
  return found;
}

}  // namespace

ModuleList::ModuleList(torch::nn::Module& model, std::string_view path) : path_(path) {
  const bool is_itself = path.empty() && is_list(model);
  const std::shared_ptr<torch::nn::Module> found =
      is_itself ? model.shared_from_this() : find_module(model, path);
  list_ = std::dynamic_pointer_cast<torch::nn::ModuleListImpl>(found);
  sequential_ = std::dynamic_pointer_cast<torch::nn::SequentialImpl>(found);
  if (!is_list(*found)) {
    throw Error(Errc::kWrongModuleType, fmt::format("\"{}\" is a {}, not a torch::nn::ModuleList{}", path,
                                                    found->name(), lists_in(model)));
  }
  const std::size_t count = list_ ? list_->size() : sequential_->size();
  for (std::size_t i = 0; i < count; ++i) modules_.push_back(now_at(i));
}

std::shared_ptr<torch::nn::Module> ModuleList::now_at(std::size_t index) const {
  if (list_) return index < list_->size() ? list_->ptr(index) : nullptr;
  return index < sequential_->size() ? sequential_->ptr(index) : nullptr;
}

const std::shared_ptr<torch::nn::Module>& ModuleList::at(std::size_t index) const {
  if (index >= size()) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("layer {} of \"{}\" is out of range: there are {}", index, path_,
                            size() == 0 ? "none" : fmt::format("0 to {}", size() - 1)));
  }
  if (now_at(index) != modules_[index]) {
    throw Error(Errc::kModuleChanged,
                fmt::format("\"{}\" holds another module than the one that is streamed", path_of(index)));
  }
  return modules_[index];
}

torch::nn::SequentialImpl& ModuleList::sequential() const {
  if (!sequential_) {
    throw Error(Errc::kWrongModuleType,
                fmt::format("\"{}\" is a torch::nn::ModuleList, not a torch::nn::Sequential", path_));
  }
  return *sequential_;
}

void ModuleList::throw_wrong_type(std::size_t index, const std::type_info& wanted) const {
  throw Error(Errc::kWrongModuleType, fmt::format("\"{}\" is a {}, not a {}", path_of(index),
                                                  modules_[index]->name(), c10::demangle(wanted.name())));
}

}  // namespace tierstream
