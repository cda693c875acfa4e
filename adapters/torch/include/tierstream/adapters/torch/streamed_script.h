#pragma once

#include <tierstream/adapters/torch/script_module_list.h>
#include <tierstream/adapters/torch/streamed_model.h>

namespace tierstream {

/// A TorchScript model whose layers are streamed. Its compiled `forward` cannot lease; so the layers are
/// called one by one, and what is outside them by its own methods:
///
///   torch::jit::Module model = torch::jit::load("model.pt");
///   StreamedScript streamed = stream(model, "layers", checkpoint, options);
///   for (auto&& layer : streamed.layers()) x = layer->forward({x}).toTensor();
///
/// Frozen modules (torch::jit::freeze) have no weights but constants, and cannot be streamed.
using StreamedScript = BasicStreamedModel<ScriptModuleList>;

/// As for modules of torch::nn, from a checkpoint or from the model's own weights in RAM.
StreamedScript stream(const torch::jit::Module& model, std::string_view layers_path,
                      const Checkpoint& checkpoint, const StreamOptions& options = {});
StreamedScript stream(const torch::jit::Module& model, std::string_view layers_path,
                      const StreamOptions& options = {});

}  // namespace tierstream
