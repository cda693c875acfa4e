#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/adapters/torch/weight_report.h>
#include <tierstream/io/layer_table.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tierstream {

enum class Placement {
  kStreamed,  ///< bound to the slot while its layer is leased
  kResident,  ///< loaded once, from the layer it stands in: a buffer, or shared with other layers
  kOutside,   ///< bound to the streamer's memory for tensors outside the layers
  kOwn,  ///< a buffer that the checkpoint lacks, or a weight that another place with the same tensor loads
};

/// A parameter or buffer of a module, and where its bytes come from.
struct WeightPlace {
  std::string name;   ///< within its layer, or within the model when it belongs to none
  at::Tensor tensor;  ///< shares its data with the module's
  bool is_buffer;
  std::optional<std::size_t> source = {};  ///< index into Layer::tensors
  Placement placement = Placement::kOwn;
};

/// What happens to every tensor of a model, decided before anything is bound.
struct BindingPlan {
  std::vector<WeightPlace> outside;
  std::vector<std::vector<WeightPlace>> layers;
  WeightReport outside_report;
  WeightReport layers_report;
};

/// Matches the tensors of `model` with those of `table` by name. Tensors that stand in several places of the
/// model are found by identity. Throws Error kWeightMismatch when the numbers of layers differ.
BindingPlan plan_binding(torch::nn::Module& model, std::string_view layers_path, const LayerTable& table,
                         const BindOptions& options);

/// Throws Error kWeightMismatch with the report's text, unless it is empty.
void refuse_mismatch(const WeightReport& report);

}  // namespace tierstream
