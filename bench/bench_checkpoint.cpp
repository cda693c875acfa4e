#include "bench/bench_checkpoint.h"

#include <fmt/format.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <limits>
#include <span>
#include <variant>

#include "tools/path_report.h"

namespace tierstream {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kQuickShare = 8;

/// [begin, end), widened.
ByteRange whole_pages(std::uint64_t begin, std::uint64_t end) {
  return {begin / kPageBytes * kPageBytes, (end + kPageBytes - 1) / kPageBytes * kPageBytes};
}

fs::path make_temporary_directory(const fs::path& parent) {
  std::string path = (parent / "tierstream-bench-XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) {
    throw Error(Errc::kWriteFailed, "cannot make a directory", {.file = path},
                {errno, std::generic_category()});
  }
  return path;
}

}  // namespace

FileOptions::FileOptions(BenchProgram& program, std::uint64_t default_bytes)
    : program_(program), default_bytes_(default_bytes), directory_(fs::temp_directory_path()) {
  program.command_line()
      .add_option("--dir", directory_, "Where the file that is read is written for the time")
      ->capture_default_str();
  program.command_line().add_option(
      "--file-bytes", bytes_,
      fmt::format("Its size, e.g. 2GiB (default: {}; quick: {})", format_bytes(default_bytes),
                  format_bytes(default_bytes / kQuickShare)));
}

std::uint64_t FileOptions::bytes() const {
  if (!bytes_.empty()) return parse_bytes(bytes_);
  return program_.quick() ? default_bytes_ / kQuickShare : default_bytes_;
}

BenchCheckpoint::BenchCheckpoint(const FileOptions& options, std::uint32_t layers)
    // A tiny vocabulary: nearly all bytes are in the layers.
    : BenchCheckpoint(options.directory(),
                      {.layers = layers, .layer_bytes = options.bytes() / layers, .vocabulary = 64}) {}

BenchCheckpoint::BenchCheckpoint(const fs::path& parent, const SyntheticSpec& spec)
    : directory_(make_temporary_directory(parent)) {
  try {
    fmt::print(stderr, "writing {} to {}, removed at the end\n",
               format_bytes(design_synthetic_model(spec).total_bytes), directory_.string());
    write_synthetic_checkpoint(directory_, spec);
    file_ = (directory_ / "model.safetensors").string();
    bytes_ = fs::file_size(file_);
  } catch (...) {
    fs::remove_all(directory_);
    throw;
  }
}

BenchCheckpoint::~BenchCheckpoint() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

LayerTable BenchCheckpoint::layers(const StorageOptions& options) const {
  return Checkpoint::open(file_, options).layers("model.layers");
}

ByteRange range_of(const Layer& layer) {
  ByteRange range{.begin = std::numeric_limits<std::uint64_t>::max(), .end = 0};
  for (const TensorSpec& tensor : layer.tensors) {
    const std::uint64_t offset = std::get<FileExtent>(tensor.source).offset;
    const ByteRange pages = whole_pages(offset, offset + tensor.bytes);
    range.begin = std::min(range.begin, pages.begin);
    range.end = std::max(range.end, pages.end);
  }
  return range;
}

ByteRange range_of(const LayerTable& table) {
  return {.begin = range_of(table.layers.front()).begin, .end = range_of(table.layers.back()).end};
}

std::vector<ByteRange> ranges_read(const BenchCheckpoint& checkpoint, const Plan& plan) {
  std::vector<ByteRange> ranges;
  const auto add = [&](std::span<const FileRead> reads) {
    for (const FileRead& read : reads) {
      ByteRange range = whole_pages(read.offset, read.offset + read.bytes);
      range.end = std::min(range.end, checkpoint.bytes());
      if (!ranges.empty() && ranges.back().begin <= range.begin && range.begin <= ranges.back().end) {
        ranges.back().end = std::max(ranges.back().end, range.end);
      } else {
        ranges.push_back(range);
      }
    }
  };
  for (const LayerLayout& layer : plan.layers) {
    add(layer.landings);
    add(layer.block_reads);
  }
  return ranges;
}

std::string describe(const StoragePath& path) {
  std::string text =
      fmt::format("{} {}{}", path.backend, describe_cache_use(path),
                  path.buffers_registered ? ", buffers registered" : ", buffers not registered");
  for (const Fallback& fallback : path.fallbacks) {
    text += fmt::format(" (no {}: {})", fallback.wanted, fallback.reason);
  }
  return text;
}

}  // namespace tierstream
