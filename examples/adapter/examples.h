#pragma once

#include <tierstream/io/checkpoint.h>
#include <tierstream/tiers/budget.h>
#include <torch/nn.h>

namespace tierstream::examples {

constexpr std::int64_t kWidth = 64;
constexpr std::int64_t kBlocks = 6;

struct BlockImpl : torch::nn::Module {
  BlockImpl()
      : norm(register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})))),
        up(register_module("up", torch::nn::Linear(kWidth, 2 * kWidth))),
        down(register_module("down", torch::nn::Linear(2 * kWidth, kWidth))) {}

  at::Tensor forward(const at::Tensor& x) {
    return x + down->forward(at::gelu(up->forward(norm->forward(x))));
  }

  torch::nn::LayerNorm norm;
  torch::nn::Linear up;
  torch::nn::Linear down;
};
TORCH_MODULE(Block);

/// A model whose blocks sit in a list, as they do in most.
struct ModelImpl : torch::nn::Module {
  explicit ModelImpl(torch::nn::ModuleList blocks) : layers(register_module("layers", std::move(blocks))) {
    head = register_module("head", torch::nn::Linear(kWidth, 10));
  }
  ModelImpl() : ModelImpl(make_blocks()) {}

  static torch::nn::ModuleList make_blocks() {
    torch::nn::ModuleList blocks;
    for (std::int64_t i = 0; i < kBlocks; ++i) blocks->push_back(Block());
    return blocks;
  }

  torch::nn::ModuleList layers;
  torch::nn::Linear head = nullptr;
};
TORCH_MODULE(Model);

// Each runs `x` through a model with the weights of `checkpoint`, within `budget`, in its own way.
at::Tensor range(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
at::Tensor other_names(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
at::Tensor streamed_holder(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
at::Tensor sequential(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
at::Tensor script(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
at::Tensor lease(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
at::Tensor build(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
at::Tensor hot_weights(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
at::Tensor several_lists(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x);
/// From the weights that `model` has in RAM.
at::Tensor own_weights(Model model, const Budget& budget, at::Tensor x);

}  // namespace tierstream::examples
