#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>

#include <cstdint>
#include <string_view>

namespace tierstream::minilm {

/// The tensor `name`, [rows, columns], cut into layers of about `block_bytes`, each a block of whole rows.
/// Throws Error kTensorMissing, or kWeightMismatch when it is no table.
LayerTable cut_into_rows(const Checkpoint& checkpoint, std::string_view name, std::uint64_t block_bytes);

/// Looks up rows of a table that is too large to stay on the device: its blocks are streamed, and only those
/// that hold a wanted row are read.
///
/// Threads: one at a time. Errors: those of Streamer.
class StreamedRows {
 public:
  /// `blocks` is what cut_into_rows gives.
  StreamedRows(LayerTable blocks, StreamerOptions options);

  /// `ids`: row numbers of any shape, on the streamer's device; returns [ids..., columns], there.
  at::Tensor look_up(const at::Tensor& ids);

  Streamer& streamer() noexcept { return streamer_; }

 private:
  Streamer streamer_;
  std::int64_t rows_per_block_;
};

}  // namespace tierstream::minilm
