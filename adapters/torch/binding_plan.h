#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/adapters/torch/model_weights.h>
#include <tierstream/adapters/torch/weight_report.h>
#include <tierstream/io/layer_table.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tierstream {

enum class Placement {
  kStreamed,  ///< bound to the slot while its layer is leased
  kOutside,   ///< bound to the streamer's memory for tensors outside the layers
  kLoaded,    ///< copied once from its source into memory of its own: buffers, and what several layers share
  kOwn,       ///< has no source: moves to the device as it is
};

/// A tensor of a table.
struct PlannedSource {
  std::size_t layer;  ///< the table's number of layers stands for the tensors outside
  std::size_t tensor;
};

/// A tensor of a model, however often it stands there, and what becomes of it.
struct PlannedWeight {
  std::string name;  ///< in full, where it stands first
  at::Tensor tensor;
  std::string sought = {};  ///< in full, where it stands first: by what name in the table
  bool is_buffer = false;   ///< stays, with what is written to it
  bool may_be_missing = false;
  /// The layers that use it, the first one that in which it stands first; the number of layers: outside.
  std::vector<std::size_t> users = {};
  std::optional<PlannedSource> source = {};
  Placement placement = Placement::kOwn;
};

/// Tensors of a model that lie over each other in memory without being the same.
struct Overlap {
  const std::byte* begin;  ///< in the model's memory
  std::uint64_t bytes;
  std::vector<std::size_t> weights;  ///< of the plan
};

/// What happens to every tensor of a model, decided before anything is bound.
struct BindingPlan {
  std::vector<PlannedWeight> weights;
  std::vector<Overlap> overlaps;  ///< each is one piece of device memory, whatever its weights' placement
  WeightReport report;
};

/// Matches the tensors of `model` with those of `table` by name. Throws Error kInvalidArgument for a tensor
/// whose data torch does not let anybody replace (meta, inference).
BindingPlan plan_binding(const ModelWeights& model, const LayerTable& table, const BindOptions& options);

/// Throws WeightMismatch, unless the report is empty.
void refuse_mismatch(const WeightReport& report);

/// The layers' parameters, and buffers that are only read, as spans of the memory in which they lie: those
/// that have it for themselves and fill it without a hole. The others have no source, and neither has what is
/// outside the layers.
LayerTable table_of(const ModelWeights& model, const BindOptions& options);

/// Bytes that the model's tensors take of `device` beside the streamer's; for those that take their final
/// form there, with `max_slots` slots.
std::uint64_t kept_bytes(const BindingPlan& plan, const LayerTable& table, const BindOptions& options,
                         at::Device device, std::uint32_t max_slots);

const TensorSpec& spec_of(const PlannedSource& source, const LayerTable& table);

/// False: the bytes at the weight's source are in another order or of another dtype than the module's.
bool lies_as_in_module(const at::Tensor& tensor, const TensorSpec& source);

}  // namespace tierstream
