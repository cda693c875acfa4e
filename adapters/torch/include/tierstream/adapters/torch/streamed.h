#pragma once

#include <tierstream/adapters/torch/streamed_model.h>
#include <torch/nn/pimpl.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

namespace tierstream {

/// A module whose weights are on the device while this object lives.
template <class Block>
class LeasedBlock {
 public:
  LeasedBlock(Block& module, std::shared_ptr<StreamedWeights> weights, std::optional<BoundLayer> layer)
      : module_(&module), weights_(std::move(weights)), layer_(std::move(layer)) {}

  Block* operator->() const noexcept { return module_; }
  Block& operator*() const noexcept { return *module_; }

 private:
  Block* module_;
  std::shared_ptr<StreamedWeights> weights_;  // shared: outlives the layer
  std::optional<BoundLayer> layer_;           // empty where nothing is streamed
};

/// A torch::nn::ModuleHolder that leases its layer around each use of the module:
///
///   std::vector<Streamed<BertLayerImpl>> blocks;       // a member of the model, as ModuleHolders would be
///   for (auto& block : blocks) layers->push_back(block);  // registered in a ModuleList
///   ...
///   for (auto& block : blocks) block.attach(streamed);
///   for (auto& block : blocks) x = block(x, mask);     // or block->forward(x, mask): a lease for each call
///
/// Until it is attached, and again once the StreamedModel is closed or gone, it is a plain ModuleHolder.
/// `*holder`, `get` and `ptr` give the module without a lease. Copies share the module and the attachment.
/// Threads and errors: as ModelBinding's.
template <class Block>
class Streamed : public torch::nn::ModuleHolder<Block> {
 public:
  using torch::nn::ModuleHolder<Block>::ModuleHolder;

  /// From now on uses of the module are leases of its layer. Throws Error kNoSuchModule when the module is in
  /// none of the model's lists.
  void attach(const StreamedModel& model) {
    index_ = model.index_of(*this->get());
    weights_ = model.weights();
  }

  /// A lease of the layer, for as long as the object lives.
  LeasedBlock<Block> lease() const {
    std::shared_ptr<StreamedWeights> weights = weights_.lock();
    std::optional<BoundLayer> layer;
    if (weights && weights->is_open()) layer.emplace(weights->binding().acquire(index_));
    return {*this->ptr(), std::move(weights), std::move(layer)};
  }

  /// `holder->forward(x)`: the lease lasts until the end of the full expression.
  LeasedBlock<Block> operator->() const { return lease(); }

  template <class... Args>
  auto operator()(Args&&... args) const -> torch::detail::return_type_of_forward_t<Block, Args...> {
    return lease()->forward(std::forward<Args>(args)...);
  }

 private:
  std::weak_ptr<StreamedWeights> weights_;
  std::size_t index_ = 0;
};

}  // namespace tierstream
