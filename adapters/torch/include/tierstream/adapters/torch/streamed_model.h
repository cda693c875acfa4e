#pragma once

#include <tierstream/adapters/torch/model_binding.h>
#include <tierstream/adapters/torch/module_list.h>
#include <tierstream/adapters/torch/streamed_layers.h>
#include <tierstream/adapters/torch/streamed_weights.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tierstream {

/// A model whose layers are streamed, made by `stream`. Its own loop over the layers takes them from here:
///
///   Checkpoint checkpoint = Checkpoint::open("/models/bert");
///   StreamedModel streamed = stream(*model, "encoder.layer", checkpoint,
///                                   {.streaming = {.budget = Budget::parse("gpu=2GiB,pinned=64MiB")}});
///   for (auto&& layer : streamed.layers<BertLayerImpl>()) x = layer->forward(x, mask);
///   streamed.close();
///
/// Everything else of the model is used as before; see ModelBinding for what its weights are meanwhile.
/// `List` is what holds the layers: ModuleList (StreamedModel) or ScriptModuleList (StreamedScript).
/// Movable; its layers and leases must have ended when it is destroyed. The model may be destroyed before it.
/// Threads: one at a time, on any stream.
template <class List>
class BasicStreamedModel {
 public:
  /// `weights` are those of the layers in `lists`, in their order. Use `stream`.
  BasicStreamedModel(std::vector<List> lists, std::shared_ptr<StreamedWeights> weights)
      : lists_(std::move(lists)), weights_(std::move(weights)) {}

  /// The layers at `path` as a range; empty: those of the first list. It is cheap to make, borrows from this
  /// object and is not affected by its moves. Throws Error kNoSuchModule for a path that is not streamed, and
  /// kWrongModuleType for a module that is no `Block`.
  template <class Block = typename List::Module>
  StreamedLayers<Block, List> layers(std::string_view path = {}) const {
    const List& list = find_list(path);
    return StreamedLayers<Block, List>(weights_->binding(), list, first_of(list));
  }

  /// The modules at `path`, as they were when streaming began; empty: those of the first list.
  const List& find_list(std::string_view path = {}) const {
    if (path.empty()) return lists_.front();
    std::vector<std::string> paths;
    for (const List& list : lists_) {
      if (list.path() == path) return list;
      paths.push_back(list.path());
    }
    throw_not_streamed(path, paths);
  }
  /// The streamer's number of the first layer of `list`, which is of this object.
  std::size_t first_of(const List& list) const noexcept {
    std::size_t first = 0;
    for (const List* other = lists_.data(); other != &list; ++other) first += other->size();
    return first;
  }

  /// The streamer's number of `module`. Throws Error kNoSuchModule when it is in none of the lists.
  std::size_t index_of(const typename List::Module& module) const {
    std::size_t index = 0;
    for (const List& list : lists_) {
      for (std::size_t i = 0; i < list.size(); ++i, ++index) {
        if (&list.template as<typename List::Module>(i) == &module) return index;
      }
    }
    throw_not_in_lists();
  }

  Streamer& streamer() const noexcept { return weights_->streamer(); }
  ModelBinding& binding() const noexcept { return weights_->binding(); }
  /// Shared, so that holders of single layers see whether it is open.
  const std::shared_ptr<StreamedWeights>& weights() const noexcept { return weights_; }

  /// As Streamer::set_budget, less what the model keeps on the device itself.
  Budget set_budget(const Budget& budget) { return weights_->set_budget(budget); }

  /// Changes streamed weights for all later passes; between leases the model shows the new values. Everything
  /// is staged anew, so that many updates at once cost no more than one. Throws what
  /// ModelBinding::prepare_update and Streamer::replace throw; then nothing has changed.
  void update(std::span<const WeightUpdate> updates) { weights_->update(updates); }
  void update(std::size_t layer, std::string name, at::Tensor value) {
    const WeightUpdate one{layer, std::move(name), std::move(value)};
    update({&one, 1});
  }

  /// Applies `lora` to streamed weights in all later passes, as ModelBinding::add_lora does, until it is
  /// removed by its number. Between leases the model shows the weights without it. Its matrices and the
  /// memory in which weights take their final form are taken off the gpu budget (kBudgetTooSmall; then
  /// nothing has changed), and everything is staged anew.
  ModelBinding::LoraId add_lora(const Lora& lora, double strength = 1) {
    return weights_->add_lora(lora, strength);
  }
  void remove_lora(ModelBinding::LoraId id) { weights_->remove_lora(id); }

  /// Gives the model back as ModelBinding::restore does, ends streaming and leaves nothing on the device. The
  /// destructor does the same, but copies no weights (ModelBinding::abandon). Idempotent.
  /// Throws Error kLeasesOutstanding.
  void close() { weights_->close(); }

 private:
  std::vector<List> lists_;
  std::shared_ptr<StreamedWeights> weights_;
};

using StreamedModel = BasicStreamedModel<ModuleList>;

/// Streams the layers of `model` at `layers_path`, e.g. "encoder.layer" (a ModuleList or a Sequential), from
/// `checkpoint`; everything outside them moves to the device. The model is for inference from here on.
///
/// Throws what ModuleList, Checkpoint::layers, StreamedWeights throw; the model is then as it was.
StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, const Checkpoint& checkpoint,
                     const StreamOptions& options = {});
/// The same from a table, whose layers are those of the lists.
StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, LayerTable table,
                     const StreamOptions& options = {});
/// The same from the model's own weights, which stay in RAM where they lie and are not copied; a device that
/// can do so registers them, within the pinned budget. `binding.rename` and `rename_layers` mean nothing
/// here.
StreamedModel stream(torch::nn::Module& model, std::string_view layers_path,
                     const StreamOptions& options = {});

}  // namespace tierstream
