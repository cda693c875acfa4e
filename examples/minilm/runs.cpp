#include "runs.h"

#include <c10/core/InferenceMode.h>
#include <tierstream/adapters/torch/bind_outside.h>
#include <tierstream/adapters/torch/streamed_layers.h>
#include <tierstream/adapters/torch/tensors.h>

#include <chrono>
#include <utility>

#include "plain_weights.h"

namespace tierstream::minilm {
namespace {

/// Repeats `embed` and records its results and times. Copying them to the CPU waits for the device.
template <class Embed>
void run_passes(const Job& job, Run& run, Embed&& embed) {
  const c10::InferenceMode inference;
  for (std::size_t i = 0; i < job.passes; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const at::Tensor embeddings = embed().cpu();
    run.seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    run.repeats = run.repeats && (i == 0 || at::equal(embeddings, run.embeddings));
    run.embeddings = embeddings;
    job.on_pass();
  }
}

}  // namespace

LayerTable layers_of(const Checkpoint& checkpoint) {
  LayerTable table = checkpoint.layers(BertImpl::kLayersPath);
  std::erase_if(table.outside.tensors,
                [](const TensorSpec& tensor) { return tensor.name.starts_with("pooler."); });
  return table;
}

Run run_resident(const Job& job) {
  Bert model(job.config);
  load_plainly(*model, job.checkpoint, to_torch_device(*job.device));

  Run run{.name = "resident", .embeddings = {}, .seconds = {}, .streaming = {}};
  std::vector<std::shared_ptr<BertLayerImpl>> layers;
  for (std::size_t i = 0; i < model->layers()->size(); ++i)
    layers.push_back(model->layers()->ptr<BertLayerImpl>(i));
  run_passes(job, run, [&] { return model->embed(job.ids, job.mask, layers); });
  return run;
}

Run run_streamed(const Job& job, std::string name, const Budget& budget) {
  Bert model(job.config);
  Streamer streamer(layers_of(job.checkpoint), {.device = job.device, .budget = budget});
  bind_outside(*model, BertImpl::kLayersPath, streamer);
  StreamedLayers<BertLayerImpl> layers(*model, BertImpl::kLayersPath, streamer);

  Run run{.name = std::move(name), .embeddings = {}, .seconds = {}, .streaming = StreamingReport{}};
  StreamingReport& report = *run.streaming;
  run_passes(job, run, [&] {
    const at::Tensor embeddings = model->embed(job.ids, job.mask, layers);
    report.passes.push_back(streamer.stats().last_pass);
    return embeddings;
  });
  report.plan = streamer.plan();
  report.peak_bytes = streamer.stats().peak_bytes;
  report.path = streamer.storage_path();
  return run;
}

}  // namespace tierstream::minilm
