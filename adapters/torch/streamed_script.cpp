#include <tierstream/adapters/torch/streamed_script.h>

#include <utility>

namespace tierstream {
namespace {

std::vector<ScriptModuleList> lists_at(const torch::jit::Module& model,
                                       const std::vector<std::string>& paths) {
  std::vector<ScriptModuleList> lists;
  for (const std::string& path : paths) lists.emplace_back(model, path);
  return lists;
}

}  // namespace

StreamedScript stream(const torch::jit::Module& model, std::string_view layers_path,
                      const Checkpoint& checkpoint, const StreamOptions& options) {
  const std::vector<std::string> paths = paths_of(layers_path, options);
  std::vector<ScriptModuleList> lists = lists_at(model, paths);
  auto weights = std::make_shared<StreamedWeights>(weights_of(model, lists),
                                                   table_of_lists(checkpoint, paths, options), options);
  return {std::move(lists), std::move(weights)};
}

StreamedScript stream(const torch::jit::Module& model, std::string_view layers_path,
                      const StreamOptions& options) {
  std::vector<ScriptModuleList> lists = lists_at(model, paths_of(layers_path, options));
  auto weights = stream_own_weights(weights_of(model, lists), options);
  return {std::move(lists), std::move(weights)};
}

}  // namespace tierstream
