#pragma once

#include <tierstream/adapters/torch/model_binding.h>
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
