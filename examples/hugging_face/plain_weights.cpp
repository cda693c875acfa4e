#include "hugging_face/plain_weights.h"

#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <fstream>
#include <string>

namespace tierstream {
namespace {

at::Tensor read(const CheckpointTensor& tensor, const std::string& path) {
  at::Tensor result = torch::empty(tensor.shape, to_scalar_type(tensor.dtype));
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(tensor.offset));
  file.read(static_cast<char*>(result.data_ptr()), static_cast<std::streamsize>(tensor.bytes));
  if (!file) throw Error(Errc::kReadFailed, "cannot read", {.file = path, .tensor = tensor.name});
  return result;
}

}  // namespace

void load_plainly(torch::nn::Module& module, const Checkpoint& checkpoint, at::Device device) {
  const auto load = [&](const std::string& name, const at::Tensor& target, bool is_buffer) {
    const CheckpointTensor* const tensor = checkpoint.find(name);
    if (tensor != nullptr && target.sizes() == at::IntArrayRef(tensor->shape) &&
        target.scalar_type() == find_scalar_type(tensor->dtype)) {
      target.set_requires_grad(false);
      target.set_data(read(*tensor, checkpoint.files()[tensor->file].path).to(device));
    } else if (tensor != nullptr || !is_buffer) {
      const char* const problem =
          tensor == nullptr ? "is missing" : "has another shape or dtype than the module's";
      throw Error(Errc::kWeightMismatch, problem, {.tensor = name});
    }
  };
  for (const auto& parameter : module.named_parameters()) load(parameter.key(), parameter.value(), false);
  for (const auto& buffer : module.named_buffers()) load(buffer.key(), buffer.value(), true);
}

}  // namespace tierstream
