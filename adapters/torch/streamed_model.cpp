#include <fmt/format.h>
#include <tierstream/adapters/torch/streamed_model.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "binding_plan.h"
#include "landing_buffers.h"

namespace tierstream {
namespace {

std::vector<ModuleList> lists_at(torch::nn::Module& model, std::string_view layers_path,
                                 const StreamOptions& options) {
  std::vector<ModuleList> lists;
  lists.emplace_back(model, layers_path);
  for (const std::string& path : options.more_layers) lists.emplace_back(model, path);
  return lists;
}

/// The layers of all lists, in one table.
LayerTable table_of_lists(const Checkpoint& checkpoint, const std::vector<ModuleList>& lists,
                          const StreamOptions& options) {
  LayerTable all;
  for (const ModuleList& list : lists) {
    LayerTable table =
        checkpoint.layers(options.rename_layers ? options.rename_layers(list.path()) : list.path());
    if (&list == &lists.front()) {
      all = std::move(table);
      continue;
    }
    std::unordered_set<std::string_view> outside;  // of this list; what is outside all lists is in each
    for (const TensorSpec& tensor : table.outside.tensors) outside.insert(tensor.name);
    std::erase_if(all.outside.tensors,
                  [&](const TensorSpec& tensor) { return !outside.contains(tensor.name); });
    std::ranges::move(table.layers, std::back_inserter(all.layers));
  }
  return all;
}

std::vector<at::Tensor> tensors_of(const ModelWeights& model) {
  std::vector<at::Tensor> tensors;
  for (const LayerWeights& layer : model.layers) {
    for (const ModelWeight& weight : layer.weights) tensors.push_back(weight.tensor.variable_data());
  }
  return tensors;
}

/// Also refuses what does not fit, before budgets are looked at.
std::uint64_t bytes_kept_by(const ModelWeights& model, const LayerTable& table, const StreamOptions& options) {
  const BindingPlan plan = plan_binding(model, table, options.binding);
  refuse_mismatch(plan.report);
  const auto& device = options.streaming.device;
  return kept_bytes(plan, table, options.binding, device ? to_torch_device(*device) : at::Device(at::kCPU),
                    options.streaming.max_slots);
}

StreamerOptions within(StreamerOptions options, std::uint64_t kept_bytes) {
  if (options.budget.gpu < kept_bytes) {
    throw Error(Errc::kBudgetTooSmall,
                fmt::format("gpu needs {} bytes for what the model itself keeps there, and has {}",
                            kept_bytes, options.budget.gpu));
  }
  options.budget.gpu -= kept_bytes;
  return options;
}

}  // namespace

StreamedWeights::StreamedWeights(const ModelWeights& model, LayerTable table, const StreamOptions& options,
                                 std::vector<at::Tensor> sources)
    : sources_(std::move(sources)),
      kept_bytes_(bytes_kept_by(model, table, options)),
      streamer_(std::move(table), within(options.streaming, kept_bytes_)),
      binding_(model, streamer_, options.binding) {}

StreamedWeights::~StreamedWeights() {
  binding_.abandon();  // before the streamer's end: buffers are copied from the device
}

Budget StreamedWeights::set_budget(const Budget& budget) {
  return streamer_.set_budget(within({.budget = budget}, kept_bytes_).budget);
}

void StreamedWeights::close() {
  if (!is_open_) return;
  binding_.restore();
  streamer_.close();
  is_open_ = false;
}

StreamedModel::StreamedModel(std::vector<ModuleList> lists, std::shared_ptr<StreamedWeights> weights)
    : weights_(std::move(weights)) {
  std::size_t first = 0;
  for (ModuleList& list : lists) {
    const std::size_t count = list.size();
    lists_.push_back({std::move(list), first});
    first += count;
  }
}

const StreamedModel::List& StreamedModel::find_list(std::string_view path) const {
  if (path.empty()) return lists_.front();
  const auto found =
      std::ranges::find_if(lists_, [&](const List& list) { return list.modules.path() == path; });
  if (found != lists_.end()) return *found;
  std::string paths;
  for (const List& list : lists_) paths += (paths.empty() ? "" : ", ") + list.modules.path();
  throw Error(Errc::kNoSuchModule, fmt::format("no layers at \"{}\" are streamed, but at {}", path, paths));
}

StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, LayerTable table,
                     const StreamOptions& options) {
  std::vector<ModuleList> lists = lists_at(model, layers_path, options);
  auto weights = std::make_shared<StreamedWeights>(weights_of(model, lists), std::move(table), options);
  return StreamedModel(std::move(lists), std::move(weights));
}

StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, const Checkpoint& checkpoint,
                     const StreamOptions& options) {
  LayerTable table = table_of_lists(checkpoint, lists_at(model, layers_path, options), options);
  return stream(model, layers_path, std::move(table), options);
}

StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, const StreamOptions& options) {
  std::vector<ModuleList> lists = lists_at(model, layers_path, options);
  const ModelWeights own = weights_of(model, lists);
  StreamOptions own_options = options;
  own_options.binding.rename = nullptr;
  own_options.binding.allow_missing = true;
  auto weights = std::make_shared<StreamedWeights>(own, table_of(own), own_options, tensors_of(own));
  return StreamedModel(std::move(lists), std::move(weights));
}

}  // namespace tierstream
