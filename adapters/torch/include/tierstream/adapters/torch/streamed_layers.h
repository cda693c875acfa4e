#pragma once

#include <tierstream/adapters/torch/layer_binding.h>
#include <tierstream/adapters/torch/module_list.h>

#include <cstddef>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>
#include <utility>
#include <vector>

namespace tierstream {

/// A layer of a StreamedLayers: used like a pointer to its module while this object lives.
template <class Block>
class StreamedLayer {
 public:
  StreamedLayer(Block& module, BoundLayer bound) : module_(&module), bound_(std::move(bound)) {}

  Block* operator->() const noexcept { return module_; }
  Block& operator*() const noexcept { return *module_; }
  std::size_t index() const noexcept { return bound_.index(); }
  const Lease& lease() const noexcept { return bound_.lease(); }

 private:
  Block* module_;
  BoundLayer bound_;
};

/// The layers of a model as a range; in each step of a loop, the layer's weights are on the device.
///
///   bind_outside(*model, "encoder.layer", streamer);
///   StreamedLayers<BertLayerImpl> layers(*model, "encoder.layer", streamer);
///   for (auto&& layer : layers) x = layer->forward(x, mask);
///
/// `Block` is the class of the modules in the list (not the ModuleHolder around it).
/// For loops only: its iterators own the pass, so that no standard algorithm takes them.
/// A loop is one pass of the streamer; loops are not nested. A loop that is left early, or by an exception,
/// ends its layer and its pass. See LayerBinding for what happens to the weights, threads and errors.
template <class Block>
class StreamedLayers {
 public:
  StreamedLayers(torch::nn::Module& model, std::string_view layers_path, Streamer& streamer,
                 const BindOptions& options = {})
      : blocks_(blocks_of(model, layers_path)), binding_(model, layers_path, streamer, options) {}

  class Iterator {
   public:
    StreamedLayer<Block> operator*() const { return layers_->acquire(index_); }
    Iterator& operator++() {
      ++index_;
      return *this;
    }
    void operator++(int) { ++index_; }
    bool operator==(std::default_sentinel_t) const { return index_ == layers_->size(); }

   private:
    friend class StreamedLayers;
    explicit Iterator(StreamedLayers& layers) : layers_(&layers), pass_(layers.binding_.begin_pass()) {}

    StreamedLayers* layers_;
    Pass pass_;
    std::size_t index_ = 0;
  };

  Iterator begin() { return Iterator(*this); }
  std::default_sentinel_t end() const noexcept { return {}; }
  std::size_t size() const noexcept { return blocks_.size(); }

  /// Layer `index` by itself: any order, also inside a loop.
  StreamedLayer<Block> acquire(std::size_t index) {
    BoundLayer bound = binding_.acquire(index);  // refuses an index out of range
    return {*blocks_[index], std::move(bound)};
  }

 private:
  static std::vector<std::shared_ptr<Block>> blocks_of(torch::nn::Module& model,
                                                       std::string_view layers_path) {
    std::vector<std::shared_ptr<Block>> blocks;
    for (const std::shared_ptr<torch::nn::Module>& module : *find_module_list(model, layers_path)) {
      blocks.push_back(std::dynamic_pointer_cast<Block>(module));
      if (!blocks.back()) {
        const std::string index = std::to_string(blocks.size() - 1);
        throw_wrong_module_type(std::string(layers_path) + "." + index, *module, typeid(Block));
      }
    }
    return blocks;
  }

  std::vector<std::shared_ptr<Block>> blocks_;  // shared with the model
  LayerBinding binding_;
};

}  // namespace tierstream
