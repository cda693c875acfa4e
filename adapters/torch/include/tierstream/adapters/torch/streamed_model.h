#pragma once

#include <tierstream/adapters/torch/model_binding.h>
#include <tierstream/adapters/torch/module_list.h>
#include <tierstream/adapters/torch/streamed_layers.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tierstream {

struct StreamOptions {
  /// Device and budgets. What the model keeps on the device beside the streamer (buffers, tensors shared by
  /// layers, memory in which weights are converted) is taken off the gpu budget.
  StreamerOptions streaming = {};
  BindOptions binding = {};
  /// The checkpoint's path of the list at `layers_path` of the module. Empty: the same.
  std::function<std::string(std::string_view layers_path)> rename_layers = {};
  /// Paths of further lists of the model: their layers follow those of the first in the streamer's order.
  std::vector<std::string> more_layers = {};
};

/// A model's weights while they are streamed: the streamer, and what binds them. Made by `stream`.
class StreamedWeights {
 public:
  /// `sources` own what `table` names of memory. Throws what Streamer and ModelBinding throw; the model is
  /// then as it was.
  StreamedWeights(const ModelWeights& model, LayerTable table, const StreamOptions& options,
                  std::vector<at::Tensor> sources = {});
  StreamedWeights(const StreamedWeights&) = delete;
  StreamedWeights& operator=(const StreamedWeights&) = delete;
  ~StreamedWeights();

  bool is_open() const noexcept { return is_open_; }
  Streamer& streamer() noexcept { return streamer_; }
  ModelBinding& binding() noexcept { return binding_; }
  Budget set_budget(const Budget& budget);
  void close();

 private:
  std::vector<at::Tensor> sources_;  // outlive the streamer
  std::uint64_t kept_bytes_;         // of the gpu budget, by the model itself
  Streamer streamer_;
  ModelBinding binding_;
  bool is_open_ = true;
};

/// A model whose layers are streamed. Its own loop over them takes them from here:
///
///   Checkpoint checkpoint = Checkpoint::open("/models/bert");
///   StreamedModel streamed = stream(*model, "encoder.layer", checkpoint,
///                                   {.streaming = {.budget = Budget::parse("gpu=2GiB,pinned=64MiB")}});
///   for (auto&& layer : streamed.layers<BertLayerImpl>()) x = layer->forward(x, mask);
///   streamed.close();
///
/// Everything else of the model is used as before; see ModelBinding for what its weights are meanwhile.
/// Movable; its layers and leases must have ended when it is destroyed. The model may be destroyed before it.
/// Threads: one at a time, on any stream.
class StreamedModel {
 public:
  /// The layers at `path` as a range; empty: those at `layers_path`. It is cheap to make, borrows from this
  /// object and is not affected by its moves. Throws Error kNoSuchModule for a path that is not streamed, and
  /// kWrongModuleType for a module that is no `Block`.
  template <class Block>
  StreamedLayers<Block> layers(std::string_view path = {}) const {
    const List& list = find_list(path);
    return StreamedLayers<Block>(weights_->binding(), list.modules, list.first);
  }

  Streamer& streamer() const noexcept { return weights_->streamer(); }
  ModelBinding& binding() const noexcept { return weights_->binding(); }

  /// As Streamer::set_budget, less what the model keeps on the device itself.
  Budget set_budget(const Budget& budget) { return weights_->set_budget(budget); }

  /// Gives the model back as ModelBinding::restore does, ends streaming and leaves nothing on the device. The
  /// destructor does the same, but copies no weights (ModelBinding::abandon). Idempotent.
  /// Throws Error kLeasesOutstanding.
  void close() { weights_->close(); }

 private:
  friend StreamedModel stream(torch::nn::Module& model, std::string_view layers_path, LayerTable table,
                              const StreamOptions& options);
  friend StreamedModel stream(torch::nn::Module& model, std::string_view layers_path,
                              const Checkpoint& checkpoint, const StreamOptions& options);
  friend StreamedModel stream(torch::nn::Module& model, std::string_view layers_path,
                              const StreamOptions& options);
  struct List {
    ModuleList modules;
    std::size_t first;  ///< the streamer's number of its first layer
  };

  StreamedModel(std::vector<ModuleList> lists, std::shared_ptr<StreamedWeights> weights);
  const List& find_list(std::string_view path) const;

  std::vector<List> lists_;
  std::shared_ptr<StreamedWeights> weights_;  // shared: holders of single layers look whether it is open
};

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
