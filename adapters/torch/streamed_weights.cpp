#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/adapters/torch/streamed_weights.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <iterator>
#include <unordered_set>
#include <utility>

#include "binding_plan.h"
#include "landing_buffers.h"

namespace tierstream {
namespace {

std::vector<at::Tensor> tensors_of(const ModelWeights& model) {
  std::vector<at::Tensor> tensors;
  for (const LayerWeights& layer : model.layers) {
    for (const ModelWeight& weight : layer.weights) tensors.push_back(weight.tensor.variable_data());
  }
  return tensors;
}

/// Also refuses what does not fit, before budgets are looked at.
std::uint64_t bytes_kept_by(const ModelWeights& model, const LayerTable& table,
                            const StreamOptions& options) {
  const BindingPlan plan = plan_binding(model, table, options.binding);
  refuse_mismatch(plan.report);
  const auto& device = options.streaming.device;
  return kept_bytes(plan, table, options.binding, device ? to_torch_device(*device) : at::Device(at::kCPU),
                    options.streaming.max_slots);
}

Budget less(Budget budget, std::uint64_t kept_bytes) {
  if (budget.gpu < kept_bytes) {
    throw Error(Errc::kBudgetTooSmall,
                fmt::format("budget too small: gpu needs {} for what the model and its LoRAs keep there, "
                            "and more to stream; it has {}",
                            format_least_bytes(kept_bytes), format_exactly(budget.gpu)));
  }
  budget.gpu -= kept_bytes;
  return budget;
}

/// Calls `use` with what the model leaves of `budget`. Where that is too small, the error names what the
/// model takes.
template <typename Use>
auto use_rest_of(const Budget& budget, std::uint64_t kept_bytes, const Use& use) {
  const Budget rest = less(budget, kept_bytes);
  try {
    return use(rest);
  } catch (const Error& error) {
    if (error.errc() != Errc::kBudgetTooSmall || kept_bytes == 0) throw;
    throw Error(error.errc(),
                fmt::format("{}; that is beside the {} of gpu that the model and its LoRAs keep",
                            error.what(), format_exactly(kept_bytes)));
  }
}

Streamer make_streamer(LayerTable table, const StreamOptions& options, std::uint64_t kept_bytes) {
  return use_rest_of(options.streaming.budget, kept_bytes, [&](const Budget& rest) {
    StreamerOptions streaming = options.streaming;
    streaming.budget = rest;
    streaming.poison |= options.binding.poison;
    return Streamer(std::move(table), std::move(streaming));
  });
}

}  // namespace

StreamedWeights::StreamedWeights(const ModelWeights& model, LayerTable table, const StreamOptions& options,
                                 std::vector<at::Tensor> sources)
    : sources_(std::move(sources)),
      budget_(options.streaming.budget),
      landing_buffers_(most_landing_buffers(options.streaming.max_slots, table.layers.size())),
      staying_bytes_(bytes_kept_by(model, table, options)),
      streamer_(make_streamer(std::move(table), options, staying_bytes_)),
      binding_(model, streamer_, options.binding) {
  staying_bytes_ -= landing_buffers_ * binding_.landing_bytes();
}

StreamedWeights::~StreamedWeights() {
  binding_.abandon();  // before the streamer's end: buffers are copied from the device
}

std::uint64_t StreamedWeights::kept_bytes() const noexcept {
  return staying_bytes_ + landing_buffers_ * binding_.landing_bytes() + binding_.lora_bytes();
}

Budget StreamedWeights::set_budget(const Budget& budget) {
  const Budget outstanding =
      use_rest_of(budget, kept_bytes(), [&](const Budget& rest) { return streamer_.set_budget(rest); });
  budget_ = budget;
  return outstanding;
}

void StreamedWeights::fit_budget() { set_budget(budget_); }

void StreamedWeights::update(std::span<const WeightUpdate> updates) {
  std::vector<ModelBinding::Update> prepared;
  std::vector<TensorChange> changes;
  for (const WeightUpdate& update : updates) {
    prepared.push_back(binding_.prepare_update(update.layer, update.name, update.value));
    changes.push_back(prepared.back().change);
  }
  const std::uint64_t kept_before = kept_bytes();
  streamer_.replace(changes);
  for (ModelBinding::Update& update : prepared) {
    binding_.apply(update);
    updates_[{update.change.layer, update.change.tensor}] = std::move(update.source);
  }
  if (kept_bytes() != kept_before) fit_budget();  // less is converted now
}

ModelBinding::LoraId StreamedWeights::add_lora(const Lora& lora, double strength) {
  const std::uint64_t kept_before = kept_bytes();
  const ModelBinding::LoraId id = binding_.add_lora(lora, strength);
  try {
    fit_budget();  // its matrices find room
    binding_.load_lora(id);
  } catch (const Error& error) {
    const std::uint64_t kept = kept_bytes();
    remove_lora(id);
    const std::uint64_t needed = streamer_.plan().minimum.gpu + kept;
    if (error.errc() != Errc::kBudgetTooSmall || needed <= budget_.gpu) throw;  // it is not the LoRA
    throw Error(
        error.errc(),
        fmt::format("budget too small: with this LoRA, gpu needs at least {}, has {}; its matrices, and "
                    "memory for what it changes, take {} of it",
                    format_least_bytes(needed), format_exactly(budget_.gpu),
                    format_bytes(kept - kept_before)));
  } catch (...) {
    remove_lora(id);
    throw;
  }
  return id;
}

void StreamedWeights::remove_lora(ModelBinding::LoraId id) {
  binding_.remove_lora(id);
  fit_budget();
}

void StreamedWeights::close() {
  if (!is_open_) return;
  binding_.restore();
  streamer_.close();
  is_open_ = false;
}

std::vector<std::string> paths_of(std::string_view layers_path, const StreamOptions& options) {
  std::vector<std::string> paths{std::string(layers_path)};
  paths.insert(paths.end(), options.more_layers.begin(), options.more_layers.end());
  return paths;
}

LayerTable table_of_lists(const Checkpoint& checkpoint, const std::vector<std::string>& paths,
                          const StreamOptions& options) {
  LayerTable all;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    LayerTable table = checkpoint.layers(options.rename_layers ? options.rename_layers(paths[i]) : paths[i]);
    if (i == 0) {
      all = std::move(table);
      continue;
    }
    std::unordered_set<std::string_view> outside;  // of this list; what is outside all lists is in each
    for (const TensorSpec& tensor : table.outside.tensors) outside.insert(tensor.name);
    std::erase_if(all.outside.tensors,
                  [&](const TensorSpec& tensor) { return !outside.contains(tensor.name); });
    std::ranges::move(table.layers, std::back_inserter(all.layers));
  }
  return all;
}

std::shared_ptr<StreamedWeights> stream_own_weights(const ModelWeights& model, const StreamOptions& options) {
  StreamOptions own = options;
  own.binding.rename = nullptr;
  own.binding.rename_outside = nullptr;
  own.binding.allow_missing = true;
  return std::make_shared<StreamedWeights>(model, table_of(model, own.binding), own, tensors_of(model));
}

void throw_not_streamed(std::string_view path, const std::vector<std::string>& paths) {
  throw Error(Errc::kNoSuchModule,
              fmt::format("no layers at \"{}\" are streamed, but at {}", path, fmt::join(paths, ", ")));
}

void throw_not_in_lists() {
  throw Error(Errc::kNoSuchModule, "the module is none of the layers that are streamed");
}

}  // namespace tierstream
