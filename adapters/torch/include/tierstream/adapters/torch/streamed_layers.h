#pragma once

#include <tierstream/adapters/torch/model_binding.h>
#include <tierstream/adapters/torch/module_list.h>

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <numeric>
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
  /// In the streamer, which counts on where a model has several lists.
  std::size_t index() const noexcept { return bound_.index(); }
  const Lease& lease() const noexcept { return bound_.lease(); }

 private:
  Block* module_;
  BoundLayer bound_;
};

/// The layers in a list of a model as a range; in each step of a loop, the layer's weights are on the device.
///
///   StreamedModel streamed = stream(*model, "encoder.layer", checkpoint, options);
///   for (auto&& layer : streamed.layers<BertLayerImpl>()) x = layer->forward(x, mask);
///
/// `Block` is the class of the modules in the list (not the ModuleHolder around it).
/// For loops only: its iterators own the pass, so that no standard algorithm takes them.
/// A loop is one pass of the streamer; it is not nested in another, nor in a Pass that is held (Error
/// kInvalidArgument). A loop that is left early, or by an exception,
/// ends its layer and its pass. See ModelBinding for what happens to the weights, threads and errors.
template <class Block, class List = ModuleList>
class StreamedLayers {
 public:
  /// `first` is the streamer's number of the list's first module. `binding` and `list` outlive this object.
  /// Throws Error kWrongModuleType for a module that is no `Block`.
  StreamedLayers(ModelBinding& binding, const List& list, std::size_t first = 0)
      : binding_(&binding), list_(&list), first_(first) {
    for (std::size_t i = 0; i < list.size(); ++i) list.template as<Block>(i);
  }

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
    explicit Iterator(const StreamedLayers& layers) : layers_(&layers), pass_(layers.begin_pass()) {}

    const StreamedLayers* layers_;
    Pass pass_;
    std::size_t index_ = 0;
  };

  Iterator begin() const { return Iterator(*this); }
  std::default_sentinel_t end() const noexcept { return {}; }
  std::size_t size() const noexcept { return list_->size(); }
  /// The streamer's number of the first layer.
  std::size_t first() const noexcept { return first_; }

  /// Layer `index` of the list by itself: any order, also inside a loop. Throws what the list's `at`
  /// and ModelBinding::acquire throw.
  StreamedLayer<Block> acquire(std::size_t index) const {
    Block& block = list_->template as<Block>(index);
    return {block, binding_->acquire(first_ + index)};
  }

 private:
  /// Where the list is all that is streamed, the streamer's own order, which takes no memory.
  Pass begin_pass() const {
    if (size() == binding_->size()) return binding_->begin_pass();
    std::vector<std::uint32_t> schedule(size());
    std::iota(schedule.begin(), schedule.end(), static_cast<std::uint32_t>(first_));
    return binding_->begin_pass(std::move(schedule));
  }

  ModelBinding* binding_;
  const List* list_;
  std::size_t first_;
};

}  // namespace tierstream
