#include "runs.h"

#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <tierstream/adapters/torch/streamed_model.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "hugging_face/plain_weights.h"
#include "streamed_rows.h"

namespace tierstream::minilm {
namespace {

constexpr Budget kAmple{.gpu = std::numeric_limits<std::int64_t>::max(), .pinned = 16u << 20};

PassStats sum(PassStats one, const PassStats& other) {
  one.layers += other.layers;
  one.seconds += other.seconds;
  one.bytes += other.bytes;
  one.unused_bytes += other.unused_bytes;
  one.stall.disk += other.stall.disk;
  one.stall.ring += other.stall.ring;
  one.stall.copy += other.stall.copy;
  one.stall.slot += other.stall.slot;
  return one;
}

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

ModelTables tables_of(const Checkpoint& checkpoint) {
  constexpr std::uint64_t kWordBlockBytes = 1u << 20;
  ModelTables tables{checkpoint.layers(BertImpl::kLayersPath),
                     cut_into_rows(checkpoint, BertImpl::kWordTable, kWordBlockBytes)};
  std::erase_if(tables.layers.outside.tensors, [](const TensorSpec& tensor) {
    return tensor.name.starts_with("pooler.") || tensor.name == BertImpl::kWordTable;
  });
  return tables;
}

BudgetShares least_shares(const ModelTables& tables, const PlanOptions& planning) {
  return {.layers = make_plan(tables.layers, kAmple, {}, planning).minimum,
          .words = make_plan(tables.words, kAmple, {}, planning).minimum};
}

BudgetShares share(const Budget& total, const ModelTables& tables, const PlanOptions& planning) {
  const Plan layers = make_plan(tables.layers, kAmple, {}, planning);
  const Plan words = make_plan(tables.words, kAmple, {}, planning);
  BudgetShares shares{layers.minimum, words.minimum};
  const Budget least = shares.total();
  std::string shortage;
  const auto compare = [&shortage](const char* tier, std::uint64_t needed, std::uint64_t has) {
    if (has >= needed) return;
    shortage += fmt::format("{}{} needs at least {}, has {}", shortage.empty() ? "" : "; ", tier,
                            format_least_bytes(needed), format_exactly(has));
  };
  compare("gpu", least.gpu, total.gpu);
  compare("pinned", least.pinned, total.pinned);
  if (!shortage.empty()) throw Error(Errc::kBudgetTooSmall, "budget too small: " + shortage);
  std::uint64_t spare = total.gpu - least.gpu;
  const auto give = [&spare](Budget& to, std::uint64_t slots, std::uint64_t slot_bytes) {
    const std::uint64_t bytes = std::min(slots, spare / slot_bytes) * slot_bytes;
    to.gpu += bytes;
    spare -= bytes;
  };
  const std::size_t count = tables.layers.layers.size();
  const std::size_t half = std::max<std::size_t>(count / 2, 1);
  give(shares.layers, half - 1, layers.largest_slot_bytes);
  give(shares.words, tables.words.layers.size() - 1, words.largest_slot_bytes);
  give(shares.layers, count - half, layers.largest_slot_bytes);
  shares.layers.page_cache = total.page_cache;
  shares.layers.pinned += total.pinned - least.pinned;  // blocks of words are small: two reads suffice
  return shares;
}

Run run_resident(const Job& job) {
  Bert model(job.config, WordTable::kInModule);
  load_plainly(*model, job.checkpoint, to_torch_device(*job.device));

  Run run{.name = "resident", .embeddings = {}, .seconds = {}, .streaming = {}};
  std::vector<std::shared_ptr<BertLayerImpl>> layers;
  for (std::size_t i = 0; i < model->layers()->size(); ++i)
    layers.push_back(model->layers()->ptr<BertLayerImpl>(i));
  run_passes(job, run, [&] { return model->embed(model->embeddings()->look_up(job.ids), job.mask, layers); });
  return run;
}

Run run_streamed(const Job& job, std::string name, const BudgetShares& shares) {
  Bert model(job.config, WordTable::kElsewhere);
  ModelTables tables = tables_of(job.checkpoint);
  StreamedRows words(std::move(tables.words), {.device = job.device, .budget = shares.words});
  const StreamedModel streamed = stream(*model, BertImpl::kLayersPath, std::move(tables.layers),
                                        {.streaming = {.device = job.device, .budget = shares.layers}});
  const auto layers = streamed.layers<BertLayerImpl>();
  const Streamer& streamer = streamed.streamer();

  Run run{.name = std::move(name), .embeddings = {}, .seconds = {}, .streaming = StreamingReport{}};
  StreamingReport& report = *run.streaming;
  run_passes(job, run, [&] {
    const at::Tensor embeddings = model->embed(words.look_up(job.ids), job.mask, layers);
    report.passes.push_back(sum(words.streamer().stats().last_pass, streamer.stats().last_pass));
    return embeddings;
  });
  report.layers = streamer.plan();
  report.words = words.streamer().plan();
  report.peak_bytes = streamer.stats().peak_bytes;
  report.peak_bytes.gpu += words.streamer().stats().peak_bytes.gpu;
  report.peak_bytes.pinned += words.streamer().stats().peak_bytes.pinned;
  report.path = streamer.storage_path();
  report.ring_refusal = streamer.registration_refusal();
  return run;
}

}  // namespace tierstream::minilm
