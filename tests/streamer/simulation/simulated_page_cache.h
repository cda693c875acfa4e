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
  /// What is mapped, by file; shared by those whose work may still read it.
  using Mapped = std::vector<std::vector<std::byte>>;

  /// `failures`: counts them, by layer.
  SimulatedPageCache(std::mt19937_64& random, const LayerTable& table, const Plan& plan,
                     std::shared_ptr<const MemoryFiles> files, TierBudget& budget, bool is_host, bool fails,
                     std::vector<std::uint64_t>& failures)
      : random_(random),
        table_(table),
        plan_(plan),
        files_(std::move(files)),
        reservation_(budget.reserve(plan.page_cache.bytes(), "pages")),
        fails_(fails),
        failures_(failures),
        states_(table.layers.size(), State::kComing),
        registered_(table.layers.size()) {
    for (std::size_t i = 0; i < registered_.size(); ++i) registered_[i] = is_host || random_() % 3 != 0;
    for (const SourceFile& file : table.files) mapped_->emplace_back(file.info.bytes, std::byte{0xCC});
  }

  const std::shared_ptr<Mapped>& mapped() const { return mapped_; }

  /// Brings the pages of some layer, or fails to.
  void advance() {
    const std::size_t index = random_() % states_.size();
    if (states_[index] != State::kComing) return;
    if (fails_ && random_() % 8 == 0) {
      states_[index] = State::kFailed;
      ++failures_[index];
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
    states_[index] = State::kReady;
  }

  State state(std::uint32_t layer) const noexcept override { return states_[layer]; }
  void ask_for(std::uint32_t layer) override {
    if (states_[layer] == State::kFailed) states_[layer] = State::kComing;
  }
  std::exception_ptr error(std::uint32_t layer) const override {
    return std::make_exception_ptr(
        Error(Errc::kFileChanged, "simulated", {.file = table_.layers[layer].name}));
  }
  bool is_registered(std::uint32_t layer) const noexcept override { return registered_[layer]; }
  std::uint64_t take_read_bytes(std::uint32_t) noexcept override { return 0; }
  const std::byte* address(std::uint32_t file, std::uint64_t offset) const noexcept override {
    return (*mapped_)[file].data() + offset;
  }
  void check_files() const override {}
  void find_lost() override {}
  PageCacheStatus status() const override { return {}; }

 private:
  void bring(std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) {
    std::memcpy((*mapped_)[file].data() + offset, files_->at(table_.files[file].path).data() + offset, bytes);
  }

  std::mt19937_64& random_;
  const LayerTable& table_;
  const Plan& plan_;
  std::shared_ptr<const MemoryFiles> files_;
  const Reservation reservation_;
  const bool fails_;
  std::vector<std::uint64_t>& failures_;
  std::vector<State> states_;  // by layer, like the next
  std::vector<bool> registered_;
  const std::shared_ptr<Mapped> mapped_ = std::make_shared<Mapped>();
};

}  // namespace tierstream::simulation
