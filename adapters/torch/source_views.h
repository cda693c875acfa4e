#pragma once

#include <ATen/core/Tensor.h>
#include <tierstream/io/layer_table.h>

#include <memory>
#include <vector>

namespace tierstream {

class SharedMapping;

/// A table's tensors on the host, where their bytes lie: views of files that are mapped shared and read-only,
/// or of memory. Each file is mapped once, at the first view of it, and until the last view of it is gone.
class SourceViews {
 public:
  /// `table` outlives this object.
  explicit SourceViews(const LayerTable& table) : table_(table), mappings_(table.files.size()) {}

  /// Undefined where there is nothing to view: storage that is no local file, an offset that the dtype's
  /// alignment forbids, a dtype that torch does not have. Throws Error kOpenFailed, kFileChanged and
  /// kOutOfMemory where a file cannot be mapped.
  at::Tensor find(const TensorSpec& spec);

 private:
  at::Tensor view_of_file(const TensorSpec& spec, const FileExtent& extent, at::ScalarType type);

  const LayerTable& table_;
  std::vector<std::shared_ptr<SharedMapping>> mappings_;  // shared with the views
};

}  // namespace tierstream
