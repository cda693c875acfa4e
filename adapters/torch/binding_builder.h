#pragma once

#include <tierstream/adapters/torch/model_binding.h>

#include <optional>
#include <utility>
#include <vector>

#include "binding_plan.h"
#include "placeholders.h"
#include "source_views.h"

namespace tierstream {

/// Makes what a plan says of a ModelBinding: every tensor first, so that an error leaves the model as it was.
class BindingBuilder {
 public:
  BindingBuilder(ModelBinding& binding, const BindingPlan& plan);

  void build();

 private:
  void add_overlap(const Overlap& overlap);
  void add_streamed(const PlannedWeight& weight);
  void add_staying(const PlannedWeight& weight);
  /// `home` and `data` may be undefined: it shows itself, and keeps its data.
  void keep(const PlannedWeight& weight, const at::Tensor& home, const at::Tensor& data);

  const TensorSpec& source_of(const PlannedWeight& weight) const;
  /// Its source's bytes on the device, for as long as `lease_` is.
  at::Tensor stored(const PlannedWeight& weight);
  at::Tensor loaded(const PlannedWeight& weight);
  /// What an unleased parameter shows; undefined where nothing can be viewed.
  at::Tensor home_of(const PlannedWeight& weight);

  ModelBinding& binding_;
  const BindingPlan& plan_;
  const LayerTable& table_;
  SourceViews views_;
  Placeholders placeholders_{at::kCPU};
  std::optional<Lease> lease_;                               // the layer that was loaded from last
  std::vector<std::pair<at::Tensor, at::Tensor>> new_data_;  // of the model's tensors
};

}  // namespace tierstream
