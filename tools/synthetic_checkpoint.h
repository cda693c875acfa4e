#pragma once

#include <tierstream/io/safetensors.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace tierstream {

/// A checkpoint to be made up: Llama's tensor names in the proportions of Llama 3 8B.
struct SyntheticSpec {
  std::uint32_t layers = 4;
  std::uint64_t layer_bytes = 64u << 20;  ///< wished for; SyntheticModel says what whole shapes allow
  /// These shapes instead of those that `layer_bytes` comes to; 0: not given. Both or none.
  std::uint64_t hidden = 0;  ///< a multiple of 64
  std::uint64_t intermediate = 0;
  DType dtype = DType::kBF16;       ///< of every tensor
  std::uint64_t vocabulary = 4096;  ///< tokens; small, so that the weights outside the layers are few
  std::uint64_t seed = 0;
  std::uint32_t shards = 1;
  /// In each file the data starts this many bytes after a multiple of 4096. Files of the wild start at any
  /// multiple of 8, older ones at any byte.
  std::uint64_t skew = 0;
};

/// The shapes that a spec comes to.
struct SyntheticModel {
  std::uint64_t hidden = 0;               ///< width of the model; a multiple of 64
  std::uint64_t intermediate = 0;         ///< width of the MLP; about 3.5 times `hidden`
  std::uint64_t layer_bytes = 0;          ///< within 1.5 rows of the MLP of what was wished for
  std::uint64_t total_bytes = 0;          ///< of all tensors
  std::vector<SafetensorsEntry> tensors;  ///< in file order; offsets unset
};

/// Pure. Throws Error kInvalidArgument for a spec that no shapes can meet.
SyntheticModel design_synthetic_model(const SyntheticSpec& spec);

struct SyntheticWriteOptions {
  bool overwrite = false;  ///< replace the checkpoint that the directory holds
  std::function<void(std::uint64_t done_bytes)> progress = {};
  std::stop_token stop = {};
};

/// Writes `model.safetensors`, or shards and their index, into `directory`, which is made if need be. Nothing
/// of it is left in the page cache, and nothing in the directory when it fails or is stopped.
/// Throws Error kInvalidArgument (a wrong spec, the directory holds a checkpoint), kWriteFailed
/// (too little space on the disk, ...) or kCancelled.
SyntheticModel write_synthetic_checkpoint(const std::filesystem::path& directory, const SyntheticSpec& spec,
                                          const SyntheticWriteOptions& options = {});

/// The seed of a checkpoint that was written by this version of write_synthetic_checkpoint, out of its
/// metadata; empty for any other.
std::optional<std::uint64_t> synthetic_seed(const std::map<std::string, std::string>& metadata);

}  // namespace tierstream
