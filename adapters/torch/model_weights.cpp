#include <tierstream/adapters/torch/model_weights.h>
#include <tierstream/adapters/torch/module_list.h>

#include <algorithm>

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
  ModelWeights weights{.outside = weights_in(model), .layers = {}};
  for (const ModuleList& list : lists) {
    const std::string prefix = list.prefix();
    std::erase_if(weights.outside,
                  [&](const ModelWeight& weight) { return weight.name.starts_with(prefix); });
    for (std::size_t i = 0; i < list.size(); ++i) {
      weights.layers.push_back({list.path_of(i), weights_in(*list.at(i))});
    }
  }
  return weights;
}

}  // namespace tierstream
