#pragma once

#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/tiers/page_cache.h>

#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace tierstream::simulation {

/// Pages that come late, in any order, or with an error. Until a layer is ready, rubbish lies where its pages
/// are mapped.
class SimulatedPageCache final : public PageCache {
 public:
  SimulatedPageCache(std::mt19937_64& random, const LayerTable& table, const Plan& plan,
                     std::shared_ptr<const MemoryFiles> files, bool fails)
      : random_(random), table_(table), plan_(plan), files_(std::move(files)), fails_(fails) {
    for (const SourceFile& file : table.files) mapped_.emplace_back(file.info.bytes, std::byte{0xCC});
    layers_.resize(table.layers.size());
  }

  /// Brings the pages of some layer, or fails to.
  void advance() {
    const std::size_t index = random_() % layers_.size();
    LayerState& layer = layers_[index];
    if (layer.state != State::kComing) return;
    if (fails_ && random_() % 8 == 0) {
      layer.state = State::kFailed;
      ++layer.failures;
      return;
    }
    for (const MappedCopy& copy : plan_.layers[index].mapped_copies)
      bring(copy.file, copy.offset, copy.bytes);
    const std::vector<TensorSpec>& tensors = table_.layers[index].tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (plan_.homes[index][i] != TensorHome::kMapped) continue;
      const auto& extent = std::get<FileExtent>(tensors[i].source);
      bring(extent.file, extent.offset, tensors[i].bytes);
    }
    layer.state = State::kReady;
  }
  std::uint64_t failures(std::uint32_t layer) const { return layers_[layer].failures; }

  State state(std::uint32_t layer) const noexcept override { return layers_[layer].state; }
  void ask_for(std::uint32_t layer) override {
    if (layers_[layer].state == State::kFailed) layers_[layer].state = State::kComing;
  }
  std::exception_ptr error(std::uint32_t layer) const override {
    return std::make_exception_ptr(
        Error(Errc::kFileChanged, "simulated", {.file = table_.layers[layer].name}));
  }
  std::uint64_t take_read_bytes(std::uint32_t) noexcept override { return 0; }
  const std::byte* address(std::uint32_t file, std::uint64_t offset) const noexcept override {
    return mapped_[file].data() + offset;
  }

 private:
  struct LayerState {
    State state = State::kComing;
    std::uint64_t failures = 0;
  };

  void bring(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) {
    std::memcpy(mapped_[file].data() + offset, files_->at(table_.files[file].path).data() + offset, bytes);
  }

  std::mt19937_64& random_;
  const LayerTable& table_;
  const Plan& plan_;
  std::shared_ptr<const MemoryFiles> files_;
  const bool fails_;
  std::vector<std::vector<std::byte>> mapped_;  // by file
  std::vector<LayerState> layers_;
};

}  // namespace tierstream::simulation
