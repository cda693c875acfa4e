#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/adapters/torch/lora.h>
#include <tierstream/adapters/torch/model_weights.h>
#include <tierstream/adapters/torch/weight_report.h>
#include <tierstream/streamer/streamer.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tierstream {

class LandingBuffers;
class LayerMembers;
class ModelBinding;

/// A layer whose module computes with the weights of its lease. Its end unbinds the weights and ends the
/// lease on the thread's current stream, also when an exception passes. Move-only; must not outlive its
/// ModelBinding. A destructor cannot refuse: a layer that ends while its stream is captured into a graph
/// fails the streamer for good.
class BoundLayer {
 public:
  BoundLayer(BoundLayer&& other) noexcept;
  BoundLayer& operator=(BoundLayer&&) = delete;
  ~BoundLayer();

  std::size_t index() const noexcept { return lease_.index(); }
  const Lease& lease() const noexcept { return lease_; }

 private:
  friend class ModelBinding;
  BoundLayer(ModelBinding& binding, Lease lease, Stream stream)
      : binding_(&binding), lease_(std::move(lease)), stream_(stream) {}

  ModelBinding* binding_;
  Lease lease_;
  Stream stream_;  // the current one at the acquire
};

/// A model's weights, bound to a streamer: those outside the layers for good, those of each layer for as long
/// as it is leased. The data of the model's own tensors is replaced, so that every handle to them follows.
///
/// Between leases a parameter of a layer is a view, in host memory, of where its bytes come from: a read-only
/// mapping of the file, in the file's dtype, or the tensor that a module in RAM came with. So `parameters()`,
/// saving and `clone()` see the true weights; writing to them is a fault. Where nothing can be viewed
/// (storage that is no local file, an offset that does not suit the dtype) it is a placeholder of NaN without
/// memory. Code must ask a module for its weights while the layer is leased, not keep them.
///
/// What stays on the device, in memory of its own: buffers, since streaming them would lose their updates
/// (but see BindOptions::is_read_only), and tensors that several layers use or that lie over each other in
/// memory. They are loaded once. A
/// weight that the checkpoint has in another floating-point dtype than the module, or in another order of its
/// elements, travels raw and is converted when its layer is leased, by one copy on the current stream.
///
/// `data_ptr()` of a leased weight is the same for each layer, slot and generation (Lease::generation). Views
/// are made once for each of these: a lease of a layer whose slot has held it before allocates nothing.
/// Parameters no longer require gradients: streamed models are for inference.
///
/// Threads: one at a time, on any stream. The streamer outlives this object, and what it reads from RAM is
/// not freed before the streamer is closed. It is not parked meanwhile: what is outside the layers would go.
class ModelBinding {
 public:
  /// Waits until what is outside the layers has arrived. Throws WeightMismatch, and what Streamer::acquire
  /// throws; the model is then as it was.
  ModelBinding(const ModelWeights& model, Streamer& streamer, const BindOptions& options = {});
  ModelBinding(const ModelBinding&) = delete;
  ModelBinding& operator=(const ModelBinding&) = delete;
  ~ModelBinding();

  std::size_t size() const noexcept { return layers_.size(); }
  Streamer& streamer() const noexcept { return *streamer_; }

  /// Leases layer `index` on the current stream and binds it. A layer leased already is shared.
  /// Throws what Streamer::acquire throws, Error kModuleChanged for a weight that was moved, converted or
  /// replaced since it was bound, or that its module's code does not use any more (LayerMembers), and
  /// kLeasesOutstanding for a layer that is still leased from before a change of the budget.
  BoundLayer acquire(std::size_t index);

  /// Begins a walk over `schedule` (empty: all layers) on the current stream. Throws Error kInvalidArgument
  /// while another is under way.
  Pass begin_pass(std::vector<std::uint32_t> schedule = {});

  // Changes of streamed weights for all later leases. No layer is leased meanwhile (Error
  // kLeasesOutstanding). Use them through BasicStreamedModel, which keeps the budget and the memory that they
  // need.

  /// Where the streamer is told to take the weight `name` of layer `layer` ("linear.weight") from, so that it
  /// is `value`, which has the weight's shape; and the tensor in host memory, of the module's dtype, that it
  /// is then streamed from. Throws Error kTensorMissing for one that is not streamed, kWeightMismatch.
  struct Update {
    TensorChange change;
    at::Tensor source;
  };
  Update prepare_update(std::size_t layer, std::string_view name, const at::Tensor& value) const;
  /// The streamer has been told.
  void apply(const Update& update);

  using LoraId = std::uint64_t;
  /// Adds strength x scaling x B A to each weight that `lora` names when its layer is leased, after those
  /// added before; one Tensor::addmm_ in the module's dtype each. Throws Error kWeightMismatch, naming
  /// weights that are not streamed or of another shape. It takes nothing of the device yet: the byte counts
  /// below have it already, so that room can be made, and before the next lease `load_lora` copies its
  /// matrices there. An error of that leaves it added. A strength of 0 takes and costs nothing.
  LoraId add_lora(const Lora& lora, double strength);
  void load_lora(LoraId id);
  void remove_lora(LoraId id);
  /// Of the device: what one slot's weights that take their final form there need, and all that loras take.
  std::uint64_t landing_bytes() const noexcept { return landing_bytes_; }
  std::uint64_t lora_bytes() const noexcept;

  /// Gives the model its tensors back, on the CPU: views of the files or its own, buffers with what was
  /// written to them. Weights that cannot be viewed, or are of another dtype in the file, are copied there,
  /// one layer after the other. LoRAs are removed before. Frees what this object holds of the device.
  /// Idempotent.
  /// Throws Error kLeasesOutstanding, and what acquire throws.
  void restore();
  /// The same without copies of weights: what cannot be viewed stays a placeholder, what has another dtype in
  /// the file gets that. Leases must have ended.
  void abandon() noexcept;

 private:
  friend class BoundLayer;
  friend class BindingBuilder;

  struct AppliedLora {
    LoraId id;
    at::Tensor a;  ///< on the device, in the module's dtype, as b, once loaded; the Lora's own before
    at::Tensor b;
    double factor;
  };
  struct StreamedWeight {
    std::string name;      ///< in full
    at::Tensor parameter;  ///< the model's
    at::Tensor like;       ///< of the parameter's shape, strides and dtype, without memory
    at::Tensor unleased;   ///< its data between leases
    at::Tensor home;       ///< shows the weight, in the source's dtype; undefined where nothing can
    bool required_grad;
    std::size_t tensor;  ///< in the layer
    std::vector<AppliedLora> loras = {};
    bool converts;                     ///< its stored bytes are not those of the module
    bool lands;                        ///< takes its final form in a landing buffer ...
    std::uint64_t landing_offset = 0;  ///< ... there
    const void* bound = nullptr;       ///< where its data lies now
  };
  /// Of a layer in one slot.
  struct SlotViews {
    std::vector<at::Tensor> stored;  ///< by weight, in the slot; undefined where it does not land
    std::vector<at::Tensor> bound;   ///< by weight; empty until the layer has been in the slot
  };
  struct LayerState {
    std::string name;
    std::vector<StreamedWeight> weights;
    std::vector<std::size_t> staying;             ///< of its parameters, the ones in `staying_`
    std::shared_ptr<const LayerMembers> members;  ///< as LayerWeights has them
    bool lands = false;                           ///< some of them
    std::uint64_t generation = 0;                 ///< of the streamer's plan that the views belong to
    std::vector<SlotViews> by_slot;
    std::uint32_t leases = 0;
  };
  /// A tensor that stays where it is.
  struct StayingWeight {
    std::string name;   ///< in full
    at::Tensor tensor;  ///< the model's
    at::Tensor home;    ///< what it shows when it is given back; undefined: a copy of itself
    at::Tensor like;
    bool required_grad;
    bool is_bound;                ///< false: it is on the device already, and nothing was done to it
    const void* bound = nullptr;  ///< where its data lies since the model is bound
  };

  Stream stream() const;
  void refuse_changed(const LayerState& layer) const;
  void refuse_leases() const;
  BoundLayer lease(std::size_t index);
  StreamedWeight* find_in_checkpoint(std::string_view full_name);
  const SlotViews& views_of(LayerState& layer, const Lease& lease);
  void land(const SlotViews& views, LayerState& layer, const Lease& lease);
  void bind(std::size_t index, const Lease& lease);
  void unbind(LayerState& layer) noexcept;
  void release(Lease& lease, Stream stream_at_acquire) noexcept;
  /// Gives each weight that lands its place in the buffers.
  void set_landing();
  /// The one of this number, or all.
  void drop_loras(std::optional<LoraId> id);

  Streamer* streamer_;
  at::Device device_;
  bool poison_;
  LoraId next_lora_ = 1;
  std::uint64_t landing_bytes_ = 0;
  std::vector<LayerState> layers_;
  std::vector<StayingWeight> staying_;
  std::unique_ptr<LandingBuffers> landing_;  // null where nothing lands, and once given back
};

}  // namespace tierstream
