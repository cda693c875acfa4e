#pragma once

#include <tierstream/adapters/torch/weight_report.h>
#include <tierstream/streamer/streamer.h>
#include <torch/nn/module.h>

#include <string_view>

namespace tierstream {

/// Binds every parameter and buffer of `model` outside the layers at `layers_path` to the streamer's memory,
/// where these tensors stay. Buffers that the checkpoint lacks remain the module's own and move to the
/// device. Parameters no longer require gradients: streamed models are for inference.
///
/// Waits until the tensors have arrived. The module uses the streamer's memory from here on: it must not be
/// used after the streamer's `close`.
/// Throws Error kWeightMismatch with a WeightReport's text, and what find_module_list and Streamer::outside
/// throw; the module is then as it was.
void bind_outside(torch::nn::Module& model, std::string_view layers_path, Streamer& streamer,
                  const BindOptions& options = {});

}  // namespace tierstream
