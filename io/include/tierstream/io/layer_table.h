#pragma once

#include <tierstream/io/dtype.h>
#include <tierstream/io/storage_backend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tierstream {

/// Bytes of a file: `file` indexes LayerTable::files.
struct FileExtent {
  std::uint32_t file;
  std::uint64_t offset;
};

/// Where a tensor's bytes come from: a file, or memory that the table's owner keeps alive and unchanged.
using TensorSource = std::variant<FileExtent, const std::byte*>;

struct TensorSpec {
  std::string name;  ///< within its layer, e.g. "mlp.up_proj.weight"
  DType dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t bytes;
  TensorSource source;
};

/// The unit of streaming: an ordered list of tensors.
struct Layer {
  std::string name;  ///< e.g. "model.layers.3"; a tensor's full name is this, a dot, and its own name
  std::vector<TensorSpec> tensors;

  std::string full_name(const TensorSpec& tensor) const {
    return name.empty() ? tensor.name : name + "." + tensor.name;
  }
  std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    for (const TensorSpec& tensor : tensors) sum += tensor.bytes;
    return sum;
  }
};

struct SourceFile {
  std::string path;
  FileInfo info;  ///< as it was when the table was made; a streamer refuses a file that has changed since
};

/// What each layer consists of and where its bytes lie. A plain value; it holds no file open.
struct LayerTable {
  std::vector<SourceFile> files;
  StorageFactory open_storage;  ///< not needed when no tensor lies in a file
  std::vector<Layer> layers;
  Layer outside;  ///< tensors of the model that belong to no layer; they stay on the device
};

/// A storage of its own, with the table's files open in their order. Throws Error kFileChanged for one that
/// changed since the table was made, kInvalidArgument without `open_storage`, and what opening throws.
std::unique_ptr<StorageBackend> open_files(const LayerTable& table);

}  // namespace tierstream
