#include <c10/core/InferenceMode.h>
#include <tierstream/adapters/torch/bind_outside.h>
#include <tierstream/adapters/torch/tensors.h>

#include <utility>
#include <vector>

#include "binding_plan.h"

namespace tierstream {

void bind_outside(torch::nn::Module& model, std::string_view layers_path, Streamer& streamer,
                  const BindOptions& options) {
  const BindingPlan plan = plan_binding(model, layers_path, streamer.table(), options);
  refuse_mismatch(plan.outside_report);

  const c10::InferenceMode ordinary_tensors(false);
  const at::Device device = to_torch_device(streamer.device());
  const AcquireOptions acquire{.stream = current_stream(device)};
  std::vector<std::pair<at::Tensor, at::Tensor>> bindings;  // made in full before the first takes effect
  for (const WeightPlace& place : plan.outside) {
    if (place.placement == Placement::kOutside) {
      const std::string& name = streamer.table().outside.tensors[*place.source].name;
      bindings.emplace_back(place.tensor, to_tensor(streamer.outside(name, acquire), device));
    } else if (place.is_buffer) {
      bindings.emplace_back(place.tensor, place.tensor.to(device));
    }
  }
  for (auto& [tensor, data] : bindings) {
    tensor.set_requires_grad(false);
    tensor.set_data(data);
  }
}

}  // namespace tierstream
