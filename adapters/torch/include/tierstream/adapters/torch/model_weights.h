#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

namespace torch::nn {
class Module;
}
namespace torch::jit {
struct Module;
}

namespace tierstream {

class LayerMembers;
class ModuleList;

/// A parameter or buffer of a module. The tensor is the module's own: replacing its data reaches the module.
struct ModelWeight {
  std::string name;  ///< within its layer, or within the model when it belongs to none
  at::Tensor tensor;
  bool is_buffer = false;
};

struct LayerWeights {
  std::string name;  ///< of the layer, e.g. "encoder.layer.3"
  std::vector<ModelWeight> weights;
  /// Weights that its code uses, too, though they are registered elsewhere.
  std::vector<at::Tensor> also_used = {};
  /// Through which its code reaches them; null: as TorchScript does, by their registration alone. Shared with
  /// the ModelBinding.
  std::shared_ptr<const LayerMembers> members = {};
};

/// Every parameter and buffer of a model, by layer: what streaming needs to know of it, and all that it
/// knows. A tensor that stands in several places of the model is named in each.
struct ModelWeights {
  std::vector<ModelWeight> outside;
  std::vector<at::Tensor> also_used_outside = {};  ///< as in LayerWeights
  std::vector<LayerWeights> layers;
};

/// The layers are the modules of `lists`, one list after the other.
ModelWeights weights_of(const torch::nn::Module& model, const std::vector<ModuleList>& lists);

}  // namespace tierstream
