#include "streamed_rows.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace tierstream::minilm {

LayerTable cut_into_rows(const Checkpoint& checkpoint, std::string_view name, std::uint64_t block_bytes) {
  const CheckpointTensor* const tensor = checkpoint.find(name);
  if (tensor == nullptr) throw Error(Errc::kTensorMissing, "is missing", {.tensor = std::string(name)});
  if (tensor->shape.size() != 2 || tensor->bytes == 0) {
    throw Error(Errc::kWeightMismatch, "is no table of rows", {.tensor = tensor->name});
  }
  const std::int64_t rows = tensor->shape[0];
  const std::uint64_t row_bytes = tensor->bytes / static_cast<std::uint64_t>(rows);
  const auto rows_per_block = static_cast<std::int64_t>(std::max<std::uint64_t>(1, block_bytes / row_bytes));

  LayerTable table{checkpoint.files(), checkpoint.open_storage(), {}, {}};
  for (std::int64_t first = 0; first < rows; first += rows_per_block) {
    const std::int64_t count = std::min(rows_per_block, rows - first);
    const std::uint64_t offset = static_cast<std::uint64_t>(first) * row_bytes;
    table.layers.push_back({.name = fmt::format("{} from row {}", name, first),
                            .tensors = {{.name = "rows",
                                         .dtype = tensor->dtype,
                                         .shape = {count, tensor->shape[1]},
                                         .bytes = static_cast<std::uint64_t>(count) * row_bytes,
                                         .source = FileExtent{tensor->file, tensor->offset + offset}}}});
  }
  return table;
}

StreamedRows::StreamedRows(LayerTable blocks, StreamerOptions options)
    : streamer_(std::move(blocks), std::move(options)),
      rows_per_block_(streamer_.table().layers.front().tensors.front().shape[0]) {}

at::Tensor StreamedRows::look_up(const at::Tensor& ids) {
  const at::Tensor wanted = ids.flatten();
  const at::Tensor block_of = wanted.div(rows_per_block_, "floor");
  const at::Tensor blocks = block_of.cpu();
  const std::span<const std::int64_t> numbers(blocks.const_data_ptr<std::int64_t>(),
                                              static_cast<std::size_t>(blocks.numel()));
  const std::set<std::uint32_t> schedule(numbers.begin(), numbers.end());

  const TensorSpec& first = streamer_.table().layers.front().tensors.front();
  at::Tensor found =
      at::empty({wanted.size(0), first.shape[1]}, wanted.options().dtype(to_scalar_type(first.dtype)));
  const PassOptions options{.schedule = {schedule.begin(), schedule.end()},
                            .stream = current_stream(wanted.device())};
  for (const Lease& lease : streamer_.pass(options)) {
    const at::Tensor rows = to_tensor(lease.tensor(0), wanted.device());
    const at::Tensor places = block_of.eq(static_cast<std::int64_t>(lease.index())).nonzero().squeeze(1);
    const at::Tensor within = wanted.index_select(0, places).remainder(rows_per_block_);
    found.index_copy_(0, places, rows.index_select(0, within));
  }
  std::vector<std::int64_t> shape = ids.sizes().vec();
  shape.push_back(first.shape[1]);
  return found.view(shape);
}

}  // namespace tierstream::minilm
