// Lists the tensors of a checkpoint, wherever it lies: list_tensors
// tar:///models/x.tar/inner/model.safetensors
#include <tierstream/io/checkpoint.h>

#include <cstdio>
#include <exception>

#include "tar_storage.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s ADDRESS, e.g. tar:///models/x.tar/inner/model.safetensors\n", argv[0]);
    return 2;
  }
  try {
    tierstream::StorageRegistry registry;
    registry.add("tar", make_tar_backend);
    const auto checkpoint = tierstream::Checkpoint::open(argv[1], {}, registry);
    for (const tierstream::CheckpointTensor& tensor : checkpoint.tensors()) {
      std::printf("%12llu bytes at %12llu of %s: %s\n", static_cast<unsigned long long>(tensor.bytes),
                  static_cast<unsigned long long>(tensor.offset),
                  checkpoint.files()[tensor.file].path.c_str(), tensor.name.c_str());
    }
    std::printf("read by: %s\n", checkpoint.storage_path().backend.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
