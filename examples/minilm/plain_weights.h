#pragma once

#include <tierstream/io/checkpoint.h>
#include <torch/nn/module.h>

namespace tierstream::minilm {

/// Loads every parameter and buffer of `module` that `checkpoint` has, in full, with nothing but the standard
/// library and torch: the reference that streamed runs are compared with.
/// Throws Error naming the file and the tensor.
void load_plainly(torch::nn::Module& module, const Checkpoint& checkpoint, at::Device device);

}  // namespace tierstream::minilm
