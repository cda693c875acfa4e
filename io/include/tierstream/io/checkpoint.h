#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/io/storage_registry.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tierstream {

/// A tensor of a checkpoint: found, not read.
struct CheckpointTensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t bytes;
  std::uint32_t file;    ///< index into Checkpoint::files
  std::uint64_t offset;  ///< bytes from the start of the file
};

/// A numbered list of layers that the tensor names show: `prefix`.0.x, `prefix`.1.x, ...
struct LayerList {
  std::string prefix;
  std::size_t count;
  std::uint64_t bytes;
};

/// One .safetensors file, or a directory with shards and `model.safetensors.index.json` (or a single
/// `model.safetensors`), read in place. Opening reads and validates the headers, never the data.
///
///   Checkpoint checkpoint = Checkpoint::open("/models/llama");
///   LayerTable table = checkpoint.layers("model.layers");
///
/// An index is an allowlist that maps each tensor to one shard: what else stands in a shard is ignored.
/// Shards lie below the index's directory by name; they may be links to anywhere.
///
/// A plain value: no file stays open. Const functions may be called from any thread.
/// Errors: everything wrong with a file or the index throws Error and names the file and the tensor:
/// the codes of safetensors.h and of StorageBackend, and kInvalidIndex, kShardMissing, kTensorMissing.
class Checkpoint {
 public:
  /// `address` is a path or SCHEME://PATH, see StorageRegistry. What does not open as a file is taken as a
  /// directory, unless its name ends in ".safetensors"; so stores without directories work alike.
  static Checkpoint open(const std::string& address, const StorageOptions& options = {},
                         const StorageRegistry& registry = {});

  const std::vector<SourceFile>& files() const noexcept { return files_; }
  /// Sorted by name.
  const std::vector<CheckpointTensor>& tensors() const noexcept { return tensors_; }
  /// Null when there is none of that name.
  const CheckpointTensor* find(std::string_view name) const noexcept;
  /// `__metadata__` of all shards, merged; the first shard wins.
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  /// Which way the headers were read.
  const StoragePath& storage_path() const noexcept { return storage_path_; }
  const StorageFactory& open_storage() const noexcept { return open_storage_; }

  /// Every list of at least one layer numbered 0..n-1 without a gap, the largest in bytes first.
  std::vector<LayerList> layer_lists() const;

  /// The layers `prefix`.0 ... `prefix`.n-1, tensors in file order; all other tensors are `outside`, also one
  /// that is called just `prefix`.3: it has no name within a layer. An empty prefix means the layers 0 ...
  /// n-1. Throws Error kNoSuchLayers with the lists that exist, or the number that is missing.
  LayerTable layers(std::string_view prefix) const;

 private:
  std::string address_;
  std::vector<SourceFile> files_;
  std::vector<CheckpointTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  StoragePath storage_path_;
  StorageFactory open_storage_;
};

}  // namespace tierstream
