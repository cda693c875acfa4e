#pragma once

#include <tierstream/adapters/torch/model_binding.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
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

/// A new value for a streamed weight: `name` is within the layer, as the module knows it ("linear.weight").
struct WeightUpdate {
  std::size_t layer;  ///< the streamer's number
  std::string name;
  at::Tensor value;  ///< of the weight's shape; is copied
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
  void update(std::span<const WeightUpdate> updates);
  ModelBinding::LoraId add_lora(const Lora& lora, double strength);
  void remove_lora(ModelBinding::LoraId id);
  void close();
  /// What the model itself takes of the gpu budget, beside the streamer.
  std::uint64_t kept_bytes() const noexcept;

 private:
  /// Leaves the streamer what the model does not take any more, or takes it off.
  void fit_budget();

  std::vector<at::Tensor> sources_;                                    // outlive the streamer, as do the next
  std::map<std::pair<std::size_t, std::size_t>, at::Tensor> updates_;  // by layer and tensor
  Budget budget_;                                                      // of streamer and model together
  std::uint64_t landing_buffers_;                                      // at most
  std::uint64_t staying_bytes_;  // of tensors that stay on the device in memory of their own
  Streamer streamer_;
  ModelBinding binding_;
  bool is_open_ = true;
};

/// Of all lists that are streamed.
std::vector<std::string> paths_of(std::string_view layers_path, const StreamOptions& options);
/// The layers of all the lists at `paths`, in one table; what is outside them all is outside.
LayerTable table_of_lists(const Checkpoint& checkpoint, const std::vector<std::string>& paths,
                          const StreamOptions& options);
/// Streams a model from its own weights, which stay where they lie.
std::shared_ptr<StreamedWeights> stream_own_weights(const ModelWeights& model, const StreamOptions& options);

/// Throws Error kNoSuchModule: `path` is none of `paths`.
[[noreturn]] void throw_not_streamed(std::string_view path, const std::vector<std::string>& paths);
/// Throws Error kNoSuchModule: a module is no streamed layer.
[[noreturn]] void throw_not_in_lists();

}  // namespace tierstream
