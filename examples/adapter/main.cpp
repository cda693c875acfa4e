// Runs every example of docs/adapter.md and compares it with the same model resident.
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/safetensors.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>

#include "examples.h"

namespace tierstream::examples {
namespace {

void save_safetensors(const torch::nn::Module& model, const std::string& path) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& item : model.named_parameters()) {
    const at::Tensor& tensor = item.value();
    entries.push_back(
        {item.key(), find_dtype(tensor.scalar_type()).value(), tensor.sizes().vec(), 0, tensor.nbytes()});
  }
  std::ofstream file(path, std::ios::binary);
  const std::vector<std::byte> header = format_safetensors_header(entries, {});
  file.write(reinterpret_cast<const char*>(header.data()), static_cast<std::streamsize>(header.size()));
  for (const at::Tensor& tensor : model.parameters()) {
    file.write(static_cast<const char*>(tensor.const_data_ptr()),
               static_cast<std::streamsize>(tensor.nbytes()));
  }
}

int run(const std::string& file) {
  Model model;
  save_safetensors(*model, file);
  const Checkpoint checkpoint = Checkpoint::open(file);
  const Budget budget = Budget::parse("gpu=300KiB,pinned=16MiB");  // the model has 410 KiB
  const at::Tensor x = torch::rand({3, kWidth});
  at::Tensor expected = x;
  for (const auto& layer : *model->layers) expected = layer->as<BlockImpl>()->forward(expected);
  expected = model->head->forward(expected);

  int different = 0;
  const auto check = [&](const char* name, const at::Tensor& y) {
    const bool is_equal = at::equal(y, expected);
    std::printf("%-16s %s\n", name, is_equal ? "equal to the resident model" : "DIFFERENT");
    different += is_equal ? 0 : 1;
  };
  check("range", range(checkpoint, budget, x));
  check("other_names", other_names(checkpoint, budget, x));
  check("streamed_holder", streamed_holder(checkpoint, budget, x));
  check("sequential", sequential(checkpoint, budget, x));
  check("script", script(checkpoint, budget, x));
  check("lease", lease(checkpoint, budget, x));
  check("build_layers", build(checkpoint, budget, x));
  check("hot_weights", hot_weights(checkpoint, budget, x));
  check("several_lists", several_lists(checkpoint, budget, x));
  check("own_weights", own_weights(model, budget, x));
  return different;
}

}  // namespace
}  // namespace tierstream::examples

int main() try {
  const auto file = std::filesystem::temp_directory_path() / "tierstream_adapter_examples.safetensors";
  const int different = tierstream::examples::run(file.string());
  std::filesystem::remove(file);
  return different == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "adapter_examples: %s\n", error.what());
  return 2;
}
