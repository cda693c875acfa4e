#pragma once

#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/tiers/page_cache.h>

#include <algorithm>
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

  /// `failures`: counts them, by layer. `read_bytes`: counts what layers were told. `before` (null: none)
  /// hands its pages and its reservation over.
  SimulatedPageCache(std::mt19937_64& random, const LayerTable& table, const Plan& plan,
                     std::shared_ptr<const MemoryFiles> files, FilePageCache::Budgets budgets, bool is_host,
                     bool fails, std::vector<std::uint64_t>& failures, std::uint64_t& read_bytes,
                     SimulatedPageCache* before)
      : random_(random),
        table_(table),
        plan_(plan),
        files_(std::move(files)),
        fails_(fails),
        failures_(failures),
        all_read_bytes_(read_bytes),
        states_(table.layers.size(), State::kComing),
        registered_(table.layers.size()),
        read_bytes_(table.layers.size()) {
    for (std::size_t i = 0; i < registered_.size(); ++i) registered_[i] = is_host || random_() % 3 != 0;
    if (before != nullptr) {
      before->drop();
      mapped_ = before->mapped_;
      for (std::uint32_t layer = 0; layer < states_.size(); ++layer) {
        if (before->states_[layer] == State::kReady && before->has_all_of(layer, plan)) {
          states_[layer] = State::kReady;
        }
      }
    } else {
      for (const SourceFile& file : table.files) mapped_->emplace_back(file.info.bytes, std::byte{0xCC});
    }
    const Budget bytes = bytes_by_tier(table, plan.kept);
    page_cache_ = budgets.page_cache.reserve(bytes.page_cache, "pages");
    pinned_ = budgets.pinned.reserve(bytes.pinned, "kept");
  }

  const std::shared_ptr<Mapped>& mapped() const { return mapped_; }

  /// Brings the pages of some layer, or fails to. Some of them had to be read, and of their neighbours, too.
  void advance() {
    const std::size_t index = random_() % states_.size();
    if (states_[index] != State::kComing) return;
    if (fails_ && random_() % 8 == 0) {
      states_[index] = State::kFailed;
      ++failures_[index];
      return;
    }
    for_pages_of(static_cast<std::uint32_t>(index), plan_,
                 [this, index](std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) {
                   std::memcpy((*mapped_)[file].data() + offset,
                               files_->at(table_.files[file].path).data() + offset, bytes);
                   read_bytes_[index] += random_() % (2 * bytes + 1);
                 });
    states_[index] = State::kReady;
  }

  /// At any time since the last call.
  bool some_were_coming() {
    const bool now = std::ranges::find(states_, State::kComing) != states_.end();
    return std::exchange(were_coming_, now) || now;
  }

  void begin() override {}
  State state(std::uint32_t layer) const noexcept override { return states_[layer]; }
  void ask_for(std::uint32_t layer) override {
    if (states_[layer] != State::kFailed) return;
    states_[layer] = State::kComing;
    were_coming_ = true;
  }
  std::exception_ptr error(std::uint32_t layer) const override {
    return std::make_exception_ptr(
        Error(Errc::kFileChanged, "simulated", {.file = table_.layers[layer].name}));
  }
  bool is_registered(std::uint32_t layer) const noexcept override { return registered_[layer]; }
  std::uint64_t take_read_bytes(std::uint32_t layer) noexcept override {
    all_read_bytes_ += read_bytes_[layer];
    return std::exchange(read_bytes_[layer], 0);
  }
  const std::byte* address(std::uint32_t file, std::uint64_t offset) const noexcept override {
    return (*mapped_)[file].data() + offset;
  }
  void split_at_edges(std::vector<MappedCopy>&) const override {}
  Budget reserved_bytes() const noexcept override { return {0, pinned_.bytes(), page_cache_.bytes()}; }
  void check_files() const override {}
  void find_lost() override {}
  PageCacheStatus status() const override { return {}; }
  void drop() noexcept override {
    page_cache_ = {};
    pinned_ = {};
  }

 private:
  template <typename Visit>
  void for_pages_of(std::uint32_t layer, const Plan& plan, Visit visit) const {
    for (const MappedCopy& copy : plan.layers[layer].mapped_copies) visit(copy.file, copy.offset, copy.bytes);
    const std::vector<TensorSpec>& tensors = table_.layers[layer].tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (plan.homes[layer][i] != TensorHome::kMapped) continue;
      const auto& extent = std::get<FileExtent>(tensors[i].source);
      visit(extent.file, extent.offset, tensors[i].bytes);
    }
  }
  /// Brought for `layer` by this one's plan, all that `next` keeps of it.
  bool has_all_of(std::uint32_t layer, const Plan& next) const {
    std::vector<std::vector<std::uint8_t>> there;
    for (const std::vector<std::byte>& file : *mapped_) there.emplace_back(file.size());
    for_pages_of(layer, plan_, [&](std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) {
      std::fill_n(there[file].begin() + static_cast<std::ptrdiff_t>(offset), bytes, std::uint8_t{1});
    });
    bool has_all = true;
    for_pages_of(layer, next, [&](std::uint32_t file, std::uint64_t offset, std::uint64_t bytes) {
      const auto begin = there[file].begin() + static_cast<std::ptrdiff_t>(offset);
      has_all = has_all && std::count(begin, begin + static_cast<std::ptrdiff_t>(bytes), 0) == 0;
    });
    return has_all;
  }

  std::mt19937_64& random_;
  const LayerTable& table_;
  const Plan& plan_;
  std::shared_ptr<const MemoryFiles> files_;
  Reservation page_cache_;
  Reservation pinned_;
  const bool fails_;
  std::vector<std::uint64_t>& failures_;
  std::uint64_t& all_read_bytes_;
  std::vector<State> states_;  // by layer, like the next
  std::vector<bool> registered_;
  std::vector<std::uint64_t> read_bytes_;
  bool were_coming_ = true;
  std::shared_ptr<Mapped> mapped_ = std::make_shared<Mapped>();
};

}  // namespace tierstream::simulation
