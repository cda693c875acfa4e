#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/io/storage_registry.h>
#include <tierstream/tiers/plan.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "bench/bench_program.h"
#include "tools/raw_reader.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream {

/// `--dir` and `--file-bytes` of the benches that read from a disk.
class FileOptions {
 public:
  /// Borrows the program.
  FileOptions(BenchProgram& program, std::uint64_t default_bytes);

  const std::filesystem::path& directory() const noexcept { return directory_; }
  /// Throws Error kInvalidBudget for what is no number of bytes.
  std::uint64_t bytes() const;

 private:
  const BenchProgram& program_;
  std::uint64_t default_bytes_;
  std::filesystem::path directory_;
  std::string bytes_;
};

/// A synthetic checkpoint of one file in a directory of its own, cold when made and removed at its end.
class BenchCheckpoint {
 public:
  // Both say its size on standard error before they write.
  BenchCheckpoint(const FileOptions& options, std::uint32_t layers);
  BenchCheckpoint(const std::filesystem::path& parent, const SyntheticSpec& spec);
  BenchCheckpoint(const BenchCheckpoint&) = delete;
  BenchCheckpoint& operator=(const BenchCheckpoint&) = delete;
  ~BenchCheckpoint();

  std::string directory() const { return directory_.string(); }
  const std::string& file() const noexcept { return file_; }
  std::uint64_t bytes() const noexcept { return bytes_; }
  LayerTable layers(const StorageOptions& options) const;

 private:
  std::filesystem::path directory_;
  std::string file_;
  std::uint64_t bytes_ = 0;
};

/// The bytes of its file that hold `layer`, widened to multiples of 4096.
ByteRange range_of(const Layer& layer);
/// The same, of all layers of the table.
ByteRange range_of(const LayerTable& table);
/// What a pass of `plan` reads of the checkpoint's file, in its order, widened likewise. A disk is not equally
/// fast everywhere, so that a raw reading beside a pass reads the same.
std::vector<ByteRange> ranges_read(const BenchCheckpoint& checkpoint, const Plan& plan);

/// For a result's label: which way bytes really took, e.g. "io_uring direct, buffers registered", with the
/// reason for each fallback.
std::string describe(const StoragePath& path);

}  // namespace tierstream
