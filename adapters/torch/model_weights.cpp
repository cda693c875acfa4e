#include <tierstream/adapters/torch/model_weights.h>
#include <tierstream/adapters/torch/module_list.h>

#include <algorithm>
#include <memory>
#include <unordered_set>

#include "layer_members.h"

namespace tierstream {
namespace {

std::vector<ModelWeight> weights_in(const torch::nn::Module& module) {
  std::vector<ModelWeight> weights;
  for (const auto& item : module.named_parameters()) weights.push_back({item.key(), item.value(), false});
  for (const auto& item : module.named_buffers()) weights.push_back({item.key(), item.value(), true});
  return weights;
}

}  // namespace

ModelWeights weights_of(const torch::nn::Module& model, const std::vector<ModuleList>& lists) {
  ModelWeights weights;
  for (const ModuleList& list : lists) {  // before the weights' handles are taken
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string name = list.path_of(i);
      weights.layers.push_back(
          {.name = name, .weights = {}, .members = std::make_shared<LayerMembers>(list.at(i), name)});
    }
  }
  weights.outside = weights_in(model);
  std::unordered_set<const torch::nn::Module*> layers;
  for (const ModuleList& list : lists) {
    for (std::size_t i = 0; i < list.size(); ++i) layers.insert(list.at(i).get());
  }
  weights.also_used_outside =
      assigned_members(model, [&](const torch::nn::Module& module) { return layers.contains(&module); });
  auto layer = weights.layers.begin();
  for (const ModuleList& list : lists) {
    const std::string prefix = list.prefix();
    std::erase_if(weights.outside,
                  [&](const ModelWeight& weight) { return weight.name.starts_with(prefix); });
    for (std::size_t i = 0; i < list.size(); ++i, ++layer) {
      layer->weights = weights_in(*list.at(i));
      layer->also_used = assigned_members(*list.at(i));
    }
  }
  return weights;
}

}  // namespace tierstream
