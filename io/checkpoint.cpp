#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/io/error.h>
#include <tierstream/io/safetensors.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "json_reader.h"

namespace tierstream {
namespace {

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kSingleName = "model.safetensors";
constexpr std::uint64_t kMaxIndexBytes = kSafetensorsMaxHeaderBytes;

struct CheckpointIndex {
  std::map<std::string, std::vector<std::string>> tensors_of_shard;
  std::optional<std::uint64_t> total_bytes;
};

std::string join(const std::string& directory, const std::string& name) {
  return (std::filesystem::path(directory) / name).string();
}

/// Whether opening failed because nothing has that name. Stores without an errno have no finer answer.
bool is_absent(const Error& error) {
  const std::error_code cause = error.cause();
  return error.errc() == Errc::kOpenFailed &&
         (!cause || cause == std::errc::no_such_file_or_directory || cause == std::errc::not_a_directory);
}

std::optional<FileId> try_open(StorageBackend& backend, const std::string& path) {
  try {
    return backend.open(path);
  } catch (const Error& error) {
    if (is_absent(error)) return std::nullopt;
    throw;
  }
}

std::vector<std::byte> read_bytes(StorageBackend& backend, FileId file, std::uint64_t offset,
                                  std::uint64_t bytes) {
  std::vector<std::byte> content(bytes);
  if (bytes > 0) read_exactly(backend, file, offset, content);
  return content;
}

struct Location {
  FileId file;
  bool is_index;
};

Location locate(StorageBackend& backend, const std::string& path) {
  try {
    return {backend.open(path), false};
  } catch (const Error& error) {
    const bool may_be_directory =
        error.errc() == Errc::kNotARegularFile || (is_absent(error) && !path.ends_with(".safetensors"));
    if (!may_be_directory) throw;
    if (const auto index = try_open(backend, join(path, kIndexName))) return {*index, true};
    if (const auto single = try_open(backend, join(path, kSingleName))) return {*single, false};
    throw Error(error.errc(),
                fmt::format("neither a file nor a directory with {} or {}", kIndexName, kSingleName),
                {.file = path}, error.cause());
  }
}

struct Shard {
  SourceFile source;
  SafetensorsHeader header;
};

/// The files of a checkpoint; each is there once, by whichever names it is known.
class Shards {
 public:
  explicit Shards(StorageBackend& backend) : backend_(backend) {}

  /// Reads and validates the file's header, if it is a new file. Returns its index.
  std::uint32_t add(FileId file) {
    const FileInfo& info = backend_.info(file);
    const bool has_identity = info.version.inode != 0;
    const auto same_file = [&](const Shard& shard) {
      const FileVersion& version = shard.source.info.version;
      return has_identity && version.device == info.version.device && version.inode == info.version.inode;
    };
    const auto known = std::ranges::find_if(shards_, same_file);
    const auto index = static_cast<std::uint32_t>(known - shards_.begin());
    if (known == shards_.end()) {
      shards_.push_back({.source = {backend_.path_of(file), info}, .header = read_header(file)});
    }
    return index;
  }

  const Shard& operator[](std::uint32_t index) const { return shards_[index]; }
  auto begin() const { return shards_.begin(); }
  auto end() const { return shards_.end(); }

 private:
  SafetensorsHeader read_header(FileId file) const {
    const std::string& path = backend_.path_of(file);
    const std::uint64_t file_bytes = backend_.info(file).bytes;
    const auto prefix = read_bytes(backend_, file, 0, std::min(kSafetensorsPrefixBytes, file_bytes));
    const std::uint64_t header_bytes = parse_safetensors_prefix(prefix, file_bytes, path);
    const auto json = read_bytes(backend_, file, kSafetensorsPrefixBytes, header_bytes);
    return parse_safetensors_header(json, file_bytes, path);
  }

  StorageBackend& backend_;
  std::vector<Shard> shards_;
};

CheckpointTensor tensor_of(const SafetensorsEntry& entry, std::uint32_t file) {
  return {.name = entry.name,
          .dtype = entry.dtype,
          .shape = entry.shape,
          .bytes = entry.bytes,
          .file = file,
          .offset = entry.offset};
}

/// The shard's name without detours, so that two spellings are one file. A name that leaves the directory is
/// refused: an index is not allowed to point at other files of the machine.
std::string normal_shard_name(const JsonReader::Value& value, const std::string& name) {
  const std::filesystem::path path = std::filesystem::path(name).lexically_normal();
  if (path.is_absolute() || path.filename().empty() || *path.begin() == ".." || path == "." ||
      name.find('\0') != std::string::npos) {
    value.refuse(Errc::kInvalidIndex,
                 fmt::format("shard \"{}\" is not a file below the index's directory", name));
  }
  return path.string();
}

std::optional<std::uint64_t> read_total_size(JsonReader::Value metadata) {
  std::optional<std::uint64_t> total_bytes;
  if (metadata.is_null()) return total_bytes;
  metadata.read_object([&](const std::string& key, JsonReader::Value value) {
    if (key == "total_size") {
      total_bytes = value.unsigned_integer();
    } else {
      value.skip();
    }
  });
  return total_bytes;
}

CheckpointIndex parse_index(std::span<const std::byte> json, const std::string& path) {
  CheckpointIndex index;
  bool has_map = false;
  JsonReader reader(json, {.file = path, .errc = Errc::kInvalidIndex});
  reader.read_object([&](const std::string& key, JsonReader::Value value) {
    if (key == "metadata") {
      index.total_bytes = read_total_size(value);
    } else if (key == "weight_map") {
      has_map = true;
      value.read_object([&](const std::string& tensor, JsonReader::Value shard) {
        reader.set_tensor(tensor);
        index.tensors_of_shard[normal_shard_name(shard, shard.string())].push_back(tensor);
        reader.set_tensor("");
      });
    } else {
      value.skip();
    }
  });
  if (!has_map) throw Error(Errc::kInvalidIndex, "no weight_map", {.file = path});
  return index;
}

CheckpointIndex read_index(StorageBackend& backend, FileId file) {
  const std::string& path = backend.path_of(file);
  const std::uint64_t bytes = backend.info(file).bytes;
  if (bytes > kMaxIndexBytes) {
    throw Error(Errc::kInvalidIndex, fmt::format("an index of more than {} bytes", kMaxIndexBytes),
                {.file = path, .actual_bytes = bytes});
  }
  return parse_index(read_bytes(backend, file, 0, bytes), path);
}

FileId open_shard(StorageBackend& backend, const std::string& path, const std::string& tensor) {
  try {
    return backend.open(path);
  } catch (const Error& error) {
    if (!is_absent(error)) throw;
    throw Error(Errc::kShardMissing, "the index maps it to this shard, which does not exist",
                {.file = path, .tensor = tensor}, error.cause());
  }
}

/// The tensors that `index` lists, from the shards that it names.
std::vector<CheckpointTensor> read_indexed_tensors(StorageBackend& backend, const CheckpointIndex& index,
                                                   const std::string& directory, Shards& shards) {
  std::vector<CheckpointTensor> tensors;
  for (const auto& [shard_name, names] : index.tensors_of_shard) {
    const std::string path = join(directory, shard_name);
    const std::uint32_t file = shards.add(open_shard(backend, path, names.front()));
    std::unordered_map<std::string_view, const SafetensorsEntry*> entries;
    for (const SafetensorsEntry& entry : shards[file].header.entries) entries.emplace(entry.name, &entry);
    for (const std::string& name : names) {
      const auto entry = entries.find(name);
      if (entry == entries.end()) {
        throw Error(Errc::kTensorMissing, "the index maps it to this shard, which does not hold it",
                    {.file = path, .tensor = name});
      }
      tensors.push_back(tensor_of(*entry->second, file));
    }
  }
  return tensors;
}

void check_total_bytes(const CheckpointIndex& index, std::span<const CheckpointTensor> tensors,
                       const std::string& path) {
  std::uint64_t bytes = 0;
  for (const CheckpointTensor& tensor : tensors) bytes += tensor.bytes;
  if (index.total_bytes.value_or(bytes) != bytes) {
    throw Error(Errc::kInvalidIndex, "metadata.total_size is not the size of the tensors listed",
                {.file = path, .expected_bytes = index.total_bytes, .actual_bytes = bytes});
  }
}

auto file_order(const CheckpointTensor& tensor) {
  // Tensors without bytes share their offset with a neighbour.
  return std::tie(tensor.file, tensor.offset, tensor.bytes, tensor.name);
}

/// "p" and 3 of the tensor "p.3.x", and where "x" begins.
struct NumberedName {
  std::string_view prefix;
  std::uint64_t number;
  std::size_t rest;
};

/// Reads the component of `name` that begins at `begin` as a layer's number. Nothing when it is not one, has
/// leading zeros, or is the last component: what follows is the tensor's name within the layer.
std::optional<NumberedName> numbered_at(std::string_view name, std::size_t begin) {
  const std::size_t end = name.find('.', begin);
  if (end == std::string_view::npos || end + 1 == name.size()) return std::nullopt;
  const std::string_view digits = name.substr(begin, end - begin);
  std::uint64_t number = 0;
  const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || stop != digits.data() + digits.size()) return std::nullopt;
  if (digits.size() > 1 && digits.front() == '0') return std::nullopt;
  return NumberedName{name.substr(0, begin == 0 ? 0 : begin - 1), number, end + 1};
}

std::optional<NumberedName> numbered_below(std::string_view name, std::string_view prefix) {
  if (prefix.empty()) return numbered_at(name, 0);
  if (!name.starts_with(prefix) || name.substr(prefix.size(), 1) != ".") return std::nullopt;
  return numbered_at(name, prefix.size() + 1);
}

std::string layer_name(std::string_view prefix, std::uint64_t number) {
  return prefix.empty() ? fmt::format("{}", number) : fmt::format("{}.{}", prefix, number);
}

TensorSpec spec_of(const CheckpointTensor& tensor, std::string name) {
  return {.name = std::move(name),
          .dtype = tensor.dtype,
          .shape = tensor.shape,
          .bytes = tensor.bytes,
          .source = FileExtent{tensor.file, tensor.offset}};
}

/// The candidates, for a caller who guessed a prefix that does not exist.
std::string describe(const std::vector<LayerList>& lists) {
  constexpr std::size_t kShown =
      8;  // the experts of each layer are lists of their own: there can be hundreds
  std::vector<std::string> shown;
  for (const LayerList& list : lists | std::views::take(kShown)) {
    shown.push_back(fmt::format("\"{}\" ({})", list.prefix, counted(list.count, "layer")));
  }
  if (shown.empty()) return "there are no numbered layers at all";
  if (lists.size() > kShown) shown.push_back(fmt::format("{} more", lists.size() - kShown));
  return fmt::format("there are {}", fmt::join(shown, ", "));
}

}  // namespace

Checkpoint Checkpoint::open(const std::string& address, const StorageOptions& options,
                            const StorageRegistry& registry) {
  const StorageRegistry::Resolved resolved = registry.resolve(address, options);
  const std::unique_ptr<StorageBackend> backend = resolved.factory();
  const Location location = locate(*backend, resolved.path);

  Checkpoint checkpoint;
  checkpoint.address_ = address;
  checkpoint.open_storage_ = resolved.factory;
  Shards shards(*backend);
  if (location.is_index) {
    const CheckpointIndex index = read_index(*backend, location.file);
    checkpoint.tensors_ = read_indexed_tensors(*backend, index, resolved.path, shards);
    check_total_bytes(index, checkpoint.tensors_, backend->path_of(location.file));
  } else {
    const std::uint32_t file = shards.add(location.file);
    for (const SafetensorsEntry& entry : shards[file].header.entries) {
      checkpoint.tensors_.push_back(tensor_of(entry, file));
    }
  }
  std::ranges::sort(checkpoint.tensors_, {}, &CheckpointTensor::name);
  for (const Shard& shard : shards) {
    checkpoint.files_.push_back(shard.source);
    checkpoint.metadata_.insert(shard.header.metadata.begin(), shard.header.metadata.end());
  }
  checkpoint.storage_path_ = backend->path();
  return checkpoint;
}

const CheckpointTensor* Checkpoint::find(std::string_view name) const noexcept {
  const auto tensor = std::ranges::lower_bound(tensors_, name, {}, &CheckpointTensor::name);
  return tensor != tensors_.end() && tensor->name == name ? &*tensor : nullptr;
}

std::vector<LayerList> Checkpoint::layer_lists() const {
  std::map<std::string_view, std::map<std::uint64_t, std::uint64_t>> bytes_of_layers;
  for (const CheckpointTensor& tensor : tensors_) {
    std::size_t begin = 0;
    do {
      if (const auto numbered = numbered_at(tensor.name, begin)) {
        bytes_of_layers[numbered->prefix][numbered->number] += tensor.bytes;
      }
      begin = tensor.name.find('.', begin) + 1;
    } while (begin != 0);  // npos + 1: the last component
  }
  std::vector<LayerList> lists;
  for (const auto& [prefix, layers] : bytes_of_layers) {
    if (layers.rbegin()->first != layers.size() - 1) continue;  // a gap
    LayerList list{.prefix = std::string(prefix), .count = layers.size(), .bytes = 0};
    for (const auto& [number, bytes] : layers) list.bytes += bytes;
    lists.push_back(std::move(list));
  }
  std::ranges::stable_sort(lists, std::greater{}, &LayerList::bytes);
  return lists;
}

LayerTable Checkpoint::layers(std::string_view prefix) const {
  std::vector<const CheckpointTensor*> in_file_order;
  for (const CheckpointTensor& tensor : tensors_) in_file_order.push_back(&tensor);
  std::ranges::sort(in_file_order, {}, [](const CheckpointTensor* tensor) { return file_order(*tensor); });

  LayerTable table{.files = files_, .open_storage = open_storage_, .layers = {}, .outside = {}};
  std::map<std::uint64_t, Layer> layers;
  for (const CheckpointTensor* tensor : in_file_order) {
    if (const auto numbered = numbered_below(tensor->name, prefix)) {
      layers[numbered->number].tensors.push_back(spec_of(*tensor, tensor->name.substr(numbered->rest)));
    } else {
      table.outside.tensors.push_back(spec_of(*tensor, tensor->name));
    }
  }
  if (layers.empty()) {
    throw Error(Errc::kNoSuchLayers,
                fmt::format("no layers \"{}\", ...; {}", layer_name(prefix, 0), describe(layer_lists())),
                {.file = address_});
  }
  for (auto& [number, layer] : layers) {
    const std::string expected = layer_name(prefix, table.layers.size());
    layer.name = layer_name(prefix, number);
    if (layer.name != expected) {
      throw Error(Errc::kNoSuchLayers,
                  fmt::format("layer \"{}\" is missing, \"{}\" exists", expected, layer.name),
                  {.file = address_});
    }
    table.layers.push_back(std::move(layer));
  }
  return table;
}

}  // namespace tierstream
