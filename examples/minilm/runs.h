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

/// The model as two tables, each streamed by itself.
struct ModelTables {
  LayerTable layers;  ///< the encoder's layers, and what lies outside them but for the word vectors
  LayerTable words;   ///< the table of word vectors in blocks of rows
};
ModelTables tables_of(const Checkpoint& checkpoint);

/// A budget for the whole model, shared out.
struct BudgetShares {
  Budget layers;
  Budget words;

  Budget total() const {
    return {.gpu = layers.gpu + words.gpu, .pinned = layers.pinned + words.pinned, .page_cache = 0};
  }
};
/// The least that works.
BudgetShares least_shares(const ModelTables& tables, const PlanOptions& planning);
/// Slots for up to half of the layers, then word vectors, then more layers.
/// Throws Error kBudgetTooSmall with the least.
BudgetShares share(const Budget& total, const ModelTables& tables, const PlanOptions& planning);

/// What a streamed run reports beside its result.
struct StreamingReport {
  Plan layers;
  Plan words;
  std::vector<PassStats> passes;   ///< of both together
  StreamerStats::Peak peak_bytes;  ///< the sum of both peaks
  StoragePath path;                ///< of the layers; that of the words is of the same kind
  std::string ring_refusal;        ///< why their ring is not registered; empty: it is
};

struct Run {
  std::string name;
  at::Tensor embeddings;                     ///< of the last pass, on the CPU
  std::vector<double> seconds;               ///< of each pass, embedding and pooling included
  bool repeats = true;                       ///< every pass gave the same bits
  std::optional<StreamingReport> streaming;  ///< nothing: every weight was loaded before the first pass
};

/// Plain LibTorch with all weights loaded: no part of the streaming takes part.
Run run_resident(const Job& job);

/// The same model with its layers and word vectors streamed within `shares`.
Run run_streamed(const Job& job, std::string name, const BudgetShares& shares);

}  // namespace tierstream::minilm
