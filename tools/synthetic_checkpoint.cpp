#include "tools/synthetic_checkpoint.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <utility>

#include "tools/synthetic_contents.h"
#include "tools/uncached_file.h"

namespace tierstream {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kHiddenStep = 64;  // keeps every tensor of a dtype at a multiple of 64 bytes or more
constexpr std::uint64_t kKeyValueShare = 4;  // grouped-query attention: K and V are this much narrower than Q
constexpr double kHiddenSquaresPerLayer = 13.0;  // Q, K, V, O: 2.5; three MLP projections of 3.5 each
constexpr std::uint64_t kTensorsPerLayer = 9;
constexpr std::uint64_t kTensorsOutside = 3;
constexpr std::uint64_t kDataAlignment = 4096;
constexpr std::size_t kWriteBytes = 8u << 20;
// Limits that keep the arithmetic in 64 bits; no disk holds more.
constexpr std::uint64_t kMaxLayers = 1u << 16;
constexpr std::uint64_t kMaxLayerBytes = std::uint64_t{1} << 42;
constexpr std::uint64_t kMaxVocabulary = std::uint64_t{1} << 32;
constexpr std::uint64_t kMaxWidth = 1u << 20;
constexpr std::uint64_t kMaxSkew = 1u << 20;

constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kPartialSuffix = ".partial";
constexpr const char* kGeneratorKey = "generator";
constexpr const char* kVersionKey = "generator_version";
constexpr const char* kSeedKey = "seed";
constexpr const char* kGenerator = "tierstream synth";

std::uint64_t bytes_of(std::uint64_t elements, DType dtype) { return elements * bits_per_element(dtype) / 8; }

std::uint64_t elements_per_layer(std::uint64_t hidden, std::uint64_t intermediate) {
  return 2 * hidden * hidden + 2 * hidden * (hidden / kKeyValueShare) + 3 * hidden * intermediate +
         2 * hidden;
}

void check(const SyntheticSpec& spec) {
  const auto require_range = [](std::string_view what, std::uint64_t value, std::uint64_t least,
                                std::uint64_t most) {
    if (value >= least && value <= most) return;
    throw Error(Errc::kInvalidArgument, fmt::format("a synthetic checkpoint of {} {}: {} to {} are possible",
                                                    value, what, least, most));
  };
  if ((spec.hidden == 0) != (spec.intermediate == 0) || spec.hidden % kHiddenStep != 0) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("a hidden size of {} with an MLP of {}: multiples of {} are "
                            "possible, with an MLP",
                            spec.hidden, spec.intermediate, kHiddenStep));
  }
  require_range("as hidden size", spec.hidden, 0, kMaxWidth);
  require_range("as MLP size", spec.intermediate, 0, kMaxWidth);
  const std::uint64_t least_layer_bytes = bytes_of(elements_per_layer(kHiddenStep, 1), spec.dtype);
  require_range("layers", spec.layers, 1, kMaxLayers);
  require_range(fmt::format("bytes per {} layer", name_of(spec.dtype)), spec.layer_bytes, least_layer_bytes,
                kMaxLayerBytes);
  require_range("tokens in its vocabulary", spec.vocabulary, 1, kMaxVocabulary);
  require_range("shards", spec.shards, 1, spec.layers * kTensorsPerLayer + kTensorsOutside);
  require_range("bytes of skew", spec.skew, 0, kMaxSkew);
}

/// In the order in which Hugging Face writes them: by name within each layer.
std::vector<SafetensorsEntry> tensors_of(const SyntheticSpec& spec, const SyntheticModel& model) {
  std::vector<SafetensorsEntry> tensors;
  const auto add = [&](std::string name, std::initializer_list<std::uint64_t> shape) {
    std::uint64_t elements = 1;
    SafetensorsEntry tensor{
        .name = std::move(name), .dtype = spec.dtype, .shape = {}, .offset = 0, .bytes = 0};
    for (const std::uint64_t size : shape) {
      tensor.shape.push_back(static_cast<std::int64_t>(size));
      elements *= size;
    }
    tensor.bytes = bytes_of(elements, spec.dtype);
    tensors.push_back(std::move(tensor));
  };
  const std::uint64_t hidden = model.hidden;
  const std::uint64_t intermediate = model.intermediate;
  const std::uint64_t key_value = hidden / kKeyValueShare;

  add("model.embed_tokens.weight", {spec.vocabulary, hidden});
  for (std::uint32_t layer = 0; layer < spec.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    add(prefix + "input_layernorm.weight", {hidden});
    add(prefix + "mlp.down_proj.weight", {hidden, intermediate});
    add(prefix + "mlp.gate_proj.weight", {intermediate, hidden});
    add(prefix + "mlp.up_proj.weight", {intermediate, hidden});
    add(prefix + "post_attention_layernorm.weight", {hidden});
    add(prefix + "self_attn.k_proj.weight", {key_value, hidden});
    add(prefix + "self_attn.o_proj.weight", {hidden, hidden});
    add(prefix + "self_attn.q_proj.weight", {hidden, hidden});
    add(prefix + "self_attn.v_proj.weight", {key_value, hidden});
  }
  add("model.norm.weight", {hidden});
  add("lm_head.weight", {spec.vocabulary, hidden});
  return tensors;
}

/// Cuts the tensors, in order, into `shards` runs of about equal bytes, none of them empty.
std::vector<std::span<const SafetensorsEntry>> split(std::span<const SafetensorsEntry> tensors,
                                                     std::uint64_t total_bytes, std::uint32_t shards) {
  std::vector<std::span<const SafetensorsEntry>> runs;
  std::size_t begin = 0;
  std::uint64_t bytes = 0;
  for (std::size_t end = 1; end <= tensors.size(); ++end) {
    bytes += tensors[end - 1].bytes;
    const std::size_t shards_left = shards - runs.size() - 1;
    const bool full = bytes * shards >= total_bytes * (runs.size() + 1);
    if (end == tensors.size() || (shards_left > 0 && (full || tensors.size() - end == shards_left))) {
      runs.push_back(tensors.subspan(begin, end - begin));
      begin = end;
    }
  }
  return runs;
}

std::vector<std::byte> header_of(std::span<const SafetensorsEntry> tensors, const SyntheticSpec& spec) {
  const std::map<std::string, std::string> metadata = {{"format", "pt"},
                                                       {kGeneratorKey, kGenerator},
                                                       {kVersionKey, std::to_string(kSyntheticVersion)},
                                                       {kSeedKey, std::to_string(spec.seed)}};
  const std::uint64_t unaligned_bytes = format_safetensors_header(tensors, metadata).size();
  return format_safetensors_header(tensors, metadata, -unaligned_bytes % kDataAlignment + spec.skew);
}

bool is_checkpoint_file(const std::string& name) {
  return name == kSingleName || name == kIndexName ||
         (name.starts_with("model-") && name.ends_with(".safetensors"));
}

std::vector<fs::path> checkpoint_files_in(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (is_checkpoint_file(entry.path().filename().string())) files.push_back(entry.path());
  }
  return files;
}

/// The files of one checkpoint while they are written under other names. None gets its own name before all
/// are written. `publish` renames one after the other: when that fails midway, those renamed so far stay,
/// beside what is left of the files they replace.
class PartialFiles {
 public:
  explicit PartialFiles(fs::path directory) : directory_(std::move(directory)) {}
  PartialFiles(const PartialFiles&) = delete;
  PartialFiles& operator=(const PartialFiles&) = delete;
  ~PartialFiles() {
    std::error_code ignored;
    for (const std::string& name : names_) fs::remove(partial(name), ignored);
  }

  /// Where to write the file that will be `name`.
  fs::path add(std::string name) {
    names_.push_back(std::move(name));
    return partial(names_.back());
  }

  /// Gives every file its name, and removes those of `replaced` that are not among them.
  void publish(const std::vector<fs::path>& replaced) {
    for (const std::string& name : names_) fs::rename(partial(name), directory_ / name);
    for (const fs::path& file : replaced) {
      if (std::find(names_.begin(), names_.end(), file.filename().string()) == names_.end()) fs::remove(file);
    }
    names_.clear();
  }

 private:
  fs::path partial(const std::string& name) const { return directory_ / (name + kPartialSuffix); }

  fs::path directory_;
  std::vector<std::string> names_;
};

void write_contents(UncachedFile& file, const SafetensorsEntry& tensor, std::uint64_t seed,
                    std::span<std::byte> buffer, const std::function<void(std::uint64_t)>& wrote) {
  const SyntheticContents contents(seed, tensor.dtype, tensor.name);
  for (std::uint64_t offset = 0; offset < tensor.bytes;) {
    const auto part = buffer.first(std::min<std::uint64_t>(buffer.size(), tensor.bytes - offset));
    contents.fill(offset, part);
    file.append(part);
    offset += part.size();
    wrote(part.size());
  }
}

void write_index(const fs::path& path, const nlohmann::json& weight_map, std::uint64_t total_bytes) {
  std::ofstream stream(path);
  stream << nlohmann::json{{"metadata", {{"total_size", total_bytes}}}, {"weight_map", weight_map}}.dump(2)
         << '\n';
  stream.close();
  if (!stream) throw Error(Errc::kWriteFailed, "cannot write the index", {.file = path.string()});
}

/// Files that are replaced free nothing: they stay until the new ones are written.
void refuse_a_full_disk(const fs::path& directory, std::uint64_t needed_bytes) {
  const std::uint64_t available_bytes = fs::space(directory).available;
  if (needed_bytes <= available_bytes) return;
  throw Error(Errc::kWriteFailed, "too little space on the disk",
              {.file = directory.string(), .expected_bytes = needed_bytes, .actual_bytes = available_bytes});
}

/// The shapes whose layers come nearest to the bytes that are wished for.
void shape_layers(SyntheticModel& model, const SyntheticSpec& spec) {
  const double elements = static_cast<double>(spec.layer_bytes) * 8 / bits_per_element(spec.dtype);
  const double steps = std::sqrt(elements / kHiddenSquaresPerLayer) / static_cast<double>(kHiddenStep);
  model.hidden = kHiddenStep * std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::llround(steps)));
  // The width of the MLP takes up what the steps of the hidden width leave over.
  const double without_mlp = static_cast<double>(elements_per_layer(model.hidden, 0));
  const double rows = (elements - without_mlp) / (3.0 * static_cast<double>(model.hidden));
  model.intermediate = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::llround(rows)));
}

}  // namespace

SyntheticModel design_synthetic_model(const SyntheticSpec& spec) {
  check(spec);
  SyntheticModel model;
  model.hidden = spec.hidden;
  model.intermediate = spec.intermediate;
  if (spec.hidden == 0) shape_layers(model, spec);
  model.layer_bytes = bytes_of(elements_per_layer(model.hidden, model.intermediate), spec.dtype);
  model.tensors = tensors_of(spec, model);
  for (const SafetensorsEntry& tensor : model.tensors) model.total_bytes += tensor.bytes;
  return model;
}

SyntheticModel write_synthetic_checkpoint(const fs::path& directory, const SyntheticSpec& spec,
                                          const SyntheticWriteOptions& options) try {
  SyntheticModel model = design_synthetic_model(spec);
  const auto runs = split(model.tensors, model.total_bytes, spec.shards);

  fs::create_directories(directory);
  const std::vector<fs::path> replaced = checkpoint_files_in(directory);
  if (!replaced.empty() && !options.overwrite) {
    throw Error(Errc::kInvalidArgument, "there is a checkpoint already; --force replaces it",
                {.file = replaced.front().string()});
  }
  refuse_a_full_disk(directory, model.total_bytes);

  PartialFiles files(directory);
  std::vector<std::byte> buffer(kWriteBytes);
  nlohmann::json weight_map;
  std::uint64_t done_bytes = 0;
  for (std::size_t shard = 0; shard < runs.size(); ++shard) {
    const std::string name = runs.size() == 1
                                 ? kSingleName
                                 : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, runs.size());
    const std::vector<std::byte> header = header_of(runs[shard], spec);
    std::uint64_t file_bytes = header.size();
    for (const SafetensorsEntry& tensor : runs[shard]) file_bytes += tensor.bytes;
    UncachedFile file(files.add(name), file_bytes);
    file.append(header);
    for (const SafetensorsEntry& tensor : runs[shard]) {
      weight_map[tensor.name] = name;
      write_contents(file, tensor, spec.seed, buffer, [&](std::uint64_t bytes) {
        done_bytes += bytes;
        if (options.progress) options.progress(done_bytes);
        if (options.stop.stop_requested()) throw Error(Errc::kCancelled, "writing was stopped");
      });
    }
    file.finish();
  }
  if (runs.size() > 1) write_index(files.add(kIndexName), weight_map, model.total_bytes);
  files.publish(replaced);
  return model;
} catch (const fs::filesystem_error& error) {
  throw Error(Errc::kWriteFailed, "cannot write a checkpoint here", {.file = error.path1().string()},
              error.code());
}

std::optional<std::uint64_t> synthetic_seed(const std::map<std::string, std::string>& metadata) {
  const auto value = [&](const char* key) -> std::string_view {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string_view() : std::string_view(found->second);
  };
  if (value(kGeneratorKey) != kGenerator || value(kVersionKey) != std::to_string(kSyntheticVersion))
    return {};
  const std::string_view text = value(kSeedKey);
  std::uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return seed;
}

}  // namespace tierstream
