#pragma once

#include <tierstream/io/checkpoint.h>
#include <torch/nn/module.h>

namespace tierstream {

/// Loads every parameter and buffer of `module` that `checkpoint` has, in full, with nothing but the standard
/// library and torch: the reference that streamed runs are compared with. Weights no longer require
/// gradients. Throws Error naming the file and the tensor: one is missing, or of another shape or dtype.
void load_plainly(torch::nn::Module& module, const Checkpoint& checkpoint, at::Device device);

}  // namespace tierstream
