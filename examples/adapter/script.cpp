#include <tierstream/adapters/torch/streamed_script.h>
#include <torch/script.h>

#include "examples.h"

namespace tierstream::examples {
namespace {

constexpr const char* kForward = R"(
def forward(self, x):
    y = torch.layer_norm(x, [64], self.norm.weight, self.norm.bias)
    y = torch.gelu(torch.linear(y, self.up.weight, self.up.bias))
    return x + torch.linear(y, self.down.weight, self.down.bias)
)";

/// What torch.jit.script makes of the model in Python; here made in C++, so that the example needs no file.
torch::jit::Module make_script() {
  auto unit = std::make_shared<torch::jit::CompilationUnit>();
  const auto module_of = [&](const std::string& name, std::initializer_list<std::int64_t> weight,
                             std::int64_t bias) {
    torch::jit::Module module("__torch__." + name, unit, true);
    module.register_parameter("weight", torch::zeros(weight), false);
    module.register_parameter("bias", torch::zeros({bias}), false);
    return module;
  };
  torch::jit::Module layers("__torch__.Layers", unit);
  for (std::int64_t i = 0; i < kBlocks; ++i) {
    torch::jit::Module block("__torch__.Block", unit, true);
    block.register_module("norm", module_of("Norm", {kWidth}, kWidth));
    block.register_module("up", module_of("Up", {2 * kWidth, kWidth}, 2 * kWidth));
    block.register_module("down", module_of("Down", {kWidth, 2 * kWidth}, kWidth));
    block.define(kForward);
    layers.register_module(std::to_string(i), block);
  }
  torch::jit::Module head = module_of("Head", {10, kWidth}, 10);
  head.define("def forward(self, x):\n    return torch.linear(x, self.weight, self.bias)\n");
  torch::jit::Module model("__torch__.Model", unit);
  model.register_module("layers", layers);
  model.register_module("head", head);
  return model;
}

}  // namespace

at::Tensor script(const Checkpoint& checkpoint, const Budget& budget, at::Tensor x) {
  torch::jit::Module model = make_script();  // or torch::jit::load("model.pt")
  const StreamedScript streamed = stream(model, "layers", checkpoint, {.streaming = {.budget = budget}});
  for (auto&& layer : streamed.layers()) x = layer->forward({x}).toTensor();
  return model.attr("head").toModule().forward({x}).toTensor();
}

}  // namespace tierstream::examples
