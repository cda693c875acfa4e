#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/adapters/torch/weight_report.h>
#include <tierstream/streamer/streamer.h>
#include <torch/nn/module.h>

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace tierstream {

class LayerBinding;

/// A layer whose module computes with the weights of its lease. Its end unbinds the weights and ends the
/// lease on the thread's current stream, also when an exception passes. Move-only; must not outlive its
/// LayerBinding. A destructor cannot refuse: a layer that ends while its stream is captured into a graph
/// fails the streamer for good.
class BoundLayer {
 public:
  BoundLayer(BoundLayer&& other) noexcept;
  BoundLayer& operator=(BoundLayer&&) = delete;
  ~BoundLayer();

  std::size_t index() const noexcept { return lease_.index(); }
  const Lease& lease() const noexcept { return lease_; }

 private:
  friend class LayerBinding;
  BoundLayer(LayerBinding& binding, Lease lease) : binding_(&binding), lease_(std::move(lease)) {}

  LayerBinding* binding_;
  Lease lease_;
};

/// Binds the parameters of each layer to its slot for as long as the layer is leased.
///
/// Between leases a parameter is a placeholder of its shape, dtype and device that occupies no memory. Code
/// must ask a module for its weights while the layer is leased, not keep them. What stays with the module, in
/// ordinary memory of the device: buffers, since streaming them would lose their updates, and weights that
/// several layers share. They are loaded here, once. A weight that is shared with a module outside the layers
/// is bound by `bind_outside`, which is called first. Views are made once per layer and slot: a lease of a
/// layer whose slot has held it before allocates nothing.
///
/// Threads: one at a time, the one that runs the model. The streamer outlives this object.
class LayerBinding {
 public:
  /// Throws Error kWeightMismatch with a WeightReport's text, and what find_module_list throws; the module is
  /// then as it was.
  LayerBinding(torch::nn::Module& model, std::string_view layers_path, Streamer& streamer,
               const BindOptions& options = {});
  LayerBinding(const LayerBinding&) = delete;
  LayerBinding& operator=(const LayerBinding&) = delete;

  std::size_t size() const noexcept { return layers_.size(); }

  /// Leases layer `index` on the current stream and binds it. A layer leased already is shared.
  /// Throws what Streamer::acquire throws.
  BoundLayer acquire(std::size_t index);

  /// Begins a walk over the layers on the current stream.
  Pass begin_pass() { return streamer_->pass({.stream = stream()}); }

 private:
  friend class BoundLayer;

  struct BoundWeight {
    at::Tensor parameter;  ///< the module's; its data is replaced, so that every handle to it follows
    at::Tensor placeholder;
    std::size_t tensor;  ///< in the layer
  };
  struct LayerState {
    std::vector<BoundWeight> weights;
    std::uint64_t generation = 0;                        ///< of the streamer's plan that the views belong to
    std::vector<std::vector<at::Tensor>> views_by_slot;  ///< empty until the layer has been in the slot
    std::uint32_t leases = 0;
  };

  Stream stream() const;
  void bind(LayerState& layer, const Lease& lease);
  void release(Lease& lease) noexcept;

  Streamer* streamer_;
  at::Device device_;
  std::vector<LayerState> layers_;
};

}  // namespace tierstream
