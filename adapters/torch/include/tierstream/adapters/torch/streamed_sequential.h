#pragma once

#include <tierstream/adapters/torch/streamed_model.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/modules/container/sequential.h>

#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

namespace tierstream {

/// A torch::nn::Sequential whose modules are streamed: called as the Sequential would be.
///
///   StreamedModel streamed = stream(*model, "features", checkpoint, options);
///   StreamedSequential features(streamed);
///   at::Tensor y = features.forward(x);
///
/// Each call is one pass; each module is leased while it computes. Borrows from the StreamedModel.
/// Threads and errors: as ModelBinding's.
class StreamedSequential {
 public:
  /// The list at `path` (empty: the first) of `model`. Throws Error kWrongModuleType when it is no
  /// Sequential.
  explicit StreamedSequential(const StreamedModel& model, std::string_view path = {})
      : list_(&model.find_list(path)), layers_(model.layers(path)) {
    list_->sequential();
  }

  /// The first module gets the arguments, each further one what the one before returned. Throws c10::Error
  /// where types do not match, as the Sequential does.
  template <class Return = at::Tensor, class... Inputs>
  Return forward(Inputs&&... inputs) const {
    auto modules = list_->sequential().begin();
    std::optional<torch::nn::AnyValue> value;
    for (auto&& layer : layers_) {
      torch::nn::AnyModule& module = modules[static_cast<std::ptrdiff_t>(layer.index() - layers_.first())];
      if (value) {
        value = module.any_forward(std::move(*value));
      } else {
        value = module.any_forward(std::forward<Inputs>(inputs)...);
      }
    }
    return value->template get<Return>();
  }
  template <class... Inputs>
  at::Tensor operator()(Inputs&&... inputs) const {
    return forward(std::forward<Inputs>(inputs)...);
  }

  std::size_t size() const noexcept { return list_->size(); }

 private:
  const ModuleList* list_;
  StreamedLayers<torch::nn::Module> layers_;
};

}  // namespace tierstream
