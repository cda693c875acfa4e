#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bert.h"

namespace tierstream::minilm {

/// What every run computes from.
struct Job {
  const Checkpoint& checkpoint;
  BertConfig config;
  std::shared_ptr<Device> device;
  at::Tensor ids;   ///< [batch, tokens], on the device
  at::Tensor mask;  ///< the same, true where a token counts
  std::size_t passes;
  std::function<void()> on_pass;  ///< called after each
};

/// What a streamed run reports beside its result.
struct StreamingReport {
  Plan plan;
  std::vector<PassStats> passes;
  StreamerStats::Peak peak_bytes;
  StoragePath path;
};

struct Run {
  std::string name;
  at::Tensor embeddings;                     ///< of the last pass, on the CPU
  std::vector<double> seconds;               ///< of each pass, embedding and pooling included
  bool repeats = true;                       ///< every pass gave the same bits
  std::optional<StreamingReport> streaming;  ///< nothing: every weight was loaded before the first pass
};

/// The tensors of the checkpoint that the model uses, its layers as layers.
LayerTable layers_of(const Checkpoint& checkpoint);

/// Plain LibTorch with all weights loaded: no part of the streaming takes part.
Run run_resident(const Job& job);

/// The same model with its layers streamed within `budget`.
Run run_streamed(const Job& job, std::string name, const Budget& budget);

}  // namespace tierstream::minilm
