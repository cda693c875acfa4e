// Runs a prompt through a streamed Llama three times: as it is, with a LoRA, and after the LoRA is removed.
//
//   lora_logits MODEL_DIR LORA_DIR STRENGTH BUDGET IDS FILE
//
// Writes the logits of every position to FILE as "before", "with" and "after", float32 in .safetensors, and
// the bytes that the pass with the LoRA brought to standard output.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <tierstream/io/safetensors.h>

#include <exception>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "llama/weights.h"

namespace tierstream::llama {
namespace {

std::vector<std::int64_t> ids_in(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::int64_t> ids;
  for (std::string id; std::getline(stream, id, ',');) ids.push_back(std::stoll(id));
  return ids;
}

void run(const std::vector<std::string>& arguments) {
  const LlamaFiles files = LlamaFiles::open(arguments.at(1));
  StreamedLlama weights(files, {.budget = Budget::parse(arguments.at(4))});
  const at::Tensor ids = at::tensor(ids_in(arguments.at(5)), at::kLong);
  const auto logits = [&] {
    KvCache cache(files.config, ids.size(0), files.dtype);
    return weights.forward(ids, cache, ids.size(0)).contiguous();
  };

  const at::Tensor before = logits();
  const auto id = weights.add_lora(Lora::open(arguments.at(2)), std::stod(arguments.at(3)));
  const at::Tensor with = logits();
  const TierBytes moved = weights.streamer().stats().last_pass.bytes;
  weights.remove_lora(id);
  const at::Tensor after = logits();

  std::vector<SafetensorsEntry> entries;
  for (const char* const name : {"before", "with", "after"}) {
    entries.push_back(
        {.name = name, .dtype = DType::kF32, .shape = before.sizes().vec(), .offset = 0, .bytes = 0});
  }
  std::ofstream file(arguments.at(6), std::ios::binary);
  file.exceptions(std::ios::failbit | std::ios::badbit);
  const std::vector<std::byte> header = format_safetensors_header(entries, {});
  file.write(reinterpret_cast<const char*>(header.data()), static_cast<std::streamsize>(header.size()));
  for (const at::Tensor& tensor : {before, with, after}) {
    file.write(static_cast<const char*>(tensor.const_data_ptr()),
               static_cast<std::streamsize>(tensor.nbytes()));
  }
  fmt::print("{}\n", moved.disk + moved.page_cache);
}

}  // namespace
}  // namespace tierstream::llama

int main(int argc, char** argv) {
  try {
    tierstream::llama::run({argv, argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "lora_logits: {}\n", error.what());
    return 1;
  }
}
