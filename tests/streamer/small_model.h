#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/io/layer_table.h>
#include <tierstream/io/threaded_backend.h>
#include <tierstream/streamer/streamer.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/test_files.h"

namespace tierstream {

/// Names the two ways in which every test of the CPU device runs.
inline std::string name_of_mode(const ::testing::TestParamInfo<bool>& mode) {
  return mode.param ? "Landing" : "ThroughTheRing";
}

/// A model of equal layers in one file in memory: `tensors` tensors a layer, and one outside.
struct SmallModel {
  static constexpr std::size_t kTensors = 3;

  explicit SmallModel(std::size_t layers, std::uint64_t tensor_bytes = 40'000, std::uint64_t skew = 0) {
    auto made = std::make_shared<MemoryFiles>();
    std::vector<std::byte>& content = (*made)["model"];
    content.resize(skew + (layers * kTensors + 1) * tensor_bytes);
    std::mt19937_64 random(1);
    for (std::byte& byte : content) byte = static_cast<std::byte>(random());
    std::uint64_t offset = skew;
    const auto next = [&](std::string name) {
      TensorSpec tensor{std::move(name),
                        DType::kU8,
                        {static_cast<std::int64_t>(tensor_bytes)},
                        tensor_bytes,
                        FileExtent{0, offset}};
      offset += tensor_bytes;
      return tensor;
    };
    for (std::size_t i = 0; i < layers; ++i) {
      Layer& layer = table.layers.emplace_back(Layer{fmt::format("layers.{}", i), {}});
      for (std::size_t t = 0; t < kTensors; ++t) layer.tensors.push_back(next(fmt::format("t{}", t)));
    }
    table.outside.tensors.push_back(next("embedding"));
    files = std::move(made);
    table.open_storage = [shared = files] { return make_memory_backend(shared); };
    const std::unique_ptr<StorageBackend> storage = table.open_storage();
    table.files.push_back({"model", storage->info(storage->open("model"))});
  }

  /// From now on the table's file is a real one, written to `directory`, and read by what `make` makes.
  void move_to_file(const TemporaryDirectory& directory, const StorageFactory& make) {
    table.open_storage = make;
    const std::unique_ptr<StorageBackend> storage = make();
    const std::string path = directory.write("model", content_of("model"));
    table.files[0] = {path, storage->info(storage->open(path))};
  }

  const std::vector<std::byte>& content_of(const std::string& path) const { return files->at(path); }

  std::uint64_t layer_bytes() const { return table.layers.front().bytes(); }
  std::uint64_t slot_bytes() const { return (layer_bytes() + kTensors * 256 + 4095) / 4096 * 4096; }

  /// Room for `slots` slots, the outside, and a ring.
  Budget budget(std::size_t slots) const {
    return {.gpu = slots * slot_bytes() + slot_bytes(), .pinned = 4u << 20, .page_cache = 0};
  }

  bool has_right_bytes(const TensorView& view) const {
    const std::uint64_t offset = std::get<FileExtent>(view.spec->source).offset;
    return std::memcmp(view.data, content_of("model").data() + offset, view.spec->bytes) == 0;
  }
  bool has_right_bytes(const Lease& lease) const {
    for (std::size_t i = 0; i < lease.size(); ++i) {
      if (!has_right_bytes(lease.tensor(i))) return false;
    }
    return true;
  }

  std::shared_ptr<const MemoryFiles> files;
  LayerTable table;
};

}  // namespace tierstream
