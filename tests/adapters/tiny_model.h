#pragma once

#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/io/safetensors.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>
#include <torch/nn.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "support/test_files.h"

namespace tierstream {

inline constexpr std::int64_t kWidth = 48;  // no multiple of the tensors' alignment in a slot

struct TinyLayerImpl : torch::nn::Module {
  TinyLayerImpl()
      : linear(register_module("linear", torch::nn::Linear(kWidth, kWidth))),
        norm(register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({kWidth})))) {}

  at::Tensor forward(const at::Tensor& x) { return x + norm->forward(at::gelu(linear->forward(x))); }

  torch::nn::Linear linear;
  torch::nn::LayerNorm norm;
};
TORCH_MODULE(TinyLayer);

/// A model with layers at "encoder.layer" and a head outside them.
struct TinyModelImpl : torch::nn::Module {
  explicit TinyModelImpl(std::size_t layer_count)
      : head(register_module("head", torch::nn::Linear(kWidth, kWidth))) {
    for (std::size_t i = 0; i < layer_count; ++i) layers->push_back(TinyLayer());
    register_module("encoder", std::make_shared<torch::nn::Module>())->register_module("layer", layers);
  }

  std::shared_ptr<TinyLayerImpl> layer(std::size_t index) const { return layers->ptr<TinyLayerImpl>(index); }

  template <class Layers>
  at::Tensor forward(at::Tensor x, Layers&& streamed) {
    for (auto&& layer : streamed) x = layer->forward(x);
    return head->forward(x);
  }
  at::Tensor forward_resident(const at::Tensor& x) {
    std::vector<std::shared_ptr<TinyLayerImpl>> resident;
    for (std::size_t i = 0; i < layers->size(); ++i) resident.push_back(layer(i));
    return forward(x, resident);
  }

  torch::nn::Linear head;
  torch::nn::ModuleList layers;
};
TORCH_MODULE(TinyModel);

using Tensors = std::map<std::string, at::Tensor>;

/// Every parameter and buffer by its full name.
inline Tensors tensors_of(const torch::nn::Module& module) {
  Tensors tensors;
  for (const auto& item : module.named_parameters()) tensors[item.key()] = item.value().detach().clone();
  for (const auto& item : module.named_buffers()) tensors[item.key()] = item.value().clone();
  return tensors;
}

/// A checkpoint of tensors of any dtype, written to `directory`.
inline Checkpoint write_checkpoint(const TemporaryDirectory& directory, const Tensors& tensors) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    entries.push_back(
        {name, find_dtype(tensor.scalar_type()).value(), tensor.sizes().vec(), 0, tensor.nbytes()});
  }
  std::vector<std::byte> file = format_safetensors_header(entries, {});
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor contiguous = tensor.contiguous();
    const auto* const data = static_cast<const std::byte*>(contiguous.const_data_ptr());
    file.insert(file.end(), data, data + tensor.nbytes());
  }
  return Checkpoint::open(directory.write("model.safetensors", file));
}

/// The checkpoint that was written to `directory`, as storage that is no local file has it.
inline std::shared_ptr<MemoryFiles> files_in_memory(const TemporaryDirectory& directory) {
  std::ifstream file(directory.path("model.safetensors"), std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  auto files = std::make_shared<MemoryFiles>();
  const auto bytes = std::as_bytes(std::span(content));
  (*files)["model.safetensors"].assign(bytes.begin(), bytes.end());
  return files;
}
inline Checkpoint open_in_memory(const TemporaryDirectory& directory) {
  StorageRegistry registry;
  registry.add("mem", [files = files_in_memory(directory)](const StorageOptions& options) {
    return make_memory_backend(files, options);
  });
  return Checkpoint::open("mem://model.safetensors", {}, registry);
}

/// For `slots` slots and the least ring. `model_bytes`: what the model keeps on the device by itself.
inline StreamerOptions tiny_streaming(const LayerTable& table, std::uint32_t slots, bool reads_land = true,
                                      std::uint64_t model_bytes = 0) {
  const Plan plan = make_plan(table, {.gpu = 1u << 30, .pinned = 16u << 20}, {}, {.reads_land = reads_land});
  Budget budget = plan.minimum;
  budget.gpu += (slots - 1) * plan.largest_slot_bytes + model_bytes;
  return {.device = make_cpu_device({.reads_land = reads_land}),
          .budget = budget,
          .max_slots = std::max(slots, 3u)};
}

inline at::Tensor some_input() { return torch::linspace(-1, 1, 3 * kWidth).view({3, kWidth}); }

}  // namespace tierstream
