#include <tierstream/adapters/torch/streamed_model.h>

#include <utility>

namespace tierstream {
namespace {

std::vector<ModuleList> lists_at(torch::nn::Module& model, const std::vector<std::string>& paths) {
  std::vector<ModuleList> lists;
  for (const std::string& path : paths) lists.emplace_back(model, path);
  return lists;
}

}  // namespace

StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, LayerTable table,
                     const StreamOptions& options) {
  std::vector<ModuleList> lists = lists_at(model, paths_of(layers_path, options));
  auto weights = std::make_shared<StreamedWeights>(weights_of(model, lists), std::move(table), options);
  return {std::move(lists), std::move(weights)};
}

StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, const Checkpoint& checkpoint,
                     const StreamOptions& options) {
  const std::vector<std::string> paths = paths_of(layers_path, options);
  lists_at(model, paths);  // a path that is wrong in the model is told of first
  return stream(model, layers_path, table_of_lists(checkpoint, paths, options), options);
}

StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, const StreamOptions& options) {
  std::vector<ModuleList> lists = lists_at(model, paths_of(layers_path, options));
  auto weights = stream_own_weights(weights_of(model, lists), options);
  return {std::move(lists), std::move(weights)};
}

}  // namespace tierstream
