#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/container/modulelist.h>

#include <cstddef>

namespace tierstream {

/// Takes the memory of `module`'s parameters away: they keep shape, dtype and all handles, and show NaN,
/// until a checkpoint is streamed into the module. Buffers stay. Parameters that are the same tensor stay the
/// same.
void free_weights(torch::nn::Module& module);

/// A tensor for `register_parameter` in a module of one's own that is never to have weights of its own.
at::Tensor weight_without_memory(at::IntArrayRef sizes, at::ScalarType dtype = at::kFloat);

/// The layers of a model that is larger than RAM: `make_block(i)` makes layer i (a module, its shared_ptr or
/// its holder), whose initial weights are freed before the next one is made. Memory for one layer is enough;
/// none is touched for modules made of `weight_without_memory`.
///
///   torch::nn::ModuleList layers = build_layers(80, [&](std::size_t) { return Block(config); });
template <class MakeBlock>
torch::nn::ModuleList build_layers(std::size_t count, MakeBlock&& make_block) {
  torch::nn::ModuleList layers;
  for (std::size_t i = 0; i < count; ++i) {
    layers->push_back(make_block(i));
    free_weights(*layers->ptr(i));
  }
  return layers;
}

}  // namespace tierstream
