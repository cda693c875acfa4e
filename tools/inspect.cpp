#include <fmt/format.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/commands.h"
#include "tools/json_text.h"
#include "tools/path_report.h"

namespace tierstream {
namespace {

constexpr std::size_t kMaxRuns = 3;  // of equal layers; more do not fit on a line

struct Share {
  std::uint64_t tensors = 0;
  std::uint64_t bytes = 0;

  void add(std::uint64_t tensor_bytes) {
    ++tensors;
    bytes += tensor_bytes;
  }
};

struct ListSummary {
  LayerList list;
  std::vector<std::uint64_t> layer_bytes;
  Share outside;
};

/// What `inspect` tells, in the order in which it tells it.
struct Summary {
  std::string address;
  StoragePath path;  ///< of the headers
  std::vector<std::string> shard_paths;
  std::vector<std::uint64_t> shard_bytes;  ///< of the files, headers included
  std::vector<Share> shards;
  Share all;
  std::map<std::string, Share> dtypes;
  std::vector<ListSummary> lists;
};

ListSummary summarise(const Checkpoint& checkpoint, const LayerList& list) {
  ListSummary summary{.list = list, .layer_bytes = {}, .outside = {}};
  const LayerTable table = checkpoint.layers(list.prefix);
  for (const Layer& layer : table.layers) summary.layer_bytes.push_back(layer.bytes());
  for (const TensorSpec& tensor : table.outside.tensors) summary.outside.add(tensor.bytes);
  return summary;
}

Summary summarise(const std::string& address) {
  const Checkpoint checkpoint = Checkpoint::open(address);
  Summary summary;
  summary.address = address;
  summary.path = checkpoint.storage_path();
  for (const SourceFile& file : checkpoint.files()) {
    summary.shard_paths.push_back(file.path);
    summary.shard_bytes.push_back(file.info.bytes);
  }
  summary.shards.resize(checkpoint.files().size());
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    summary.all.add(tensor.bytes);
    summary.shards[tensor.file].add(tensor.bytes);
    summary.dtypes[std::string(name_of(tensor.dtype))].add(tensor.bytes);
  }
  for (const LayerList& list : checkpoint.layer_lists()) summary.lists.push_back(summarise(checkpoint, list));
  return summary;
}

/// "24 layers of 416.1 MiB", "2 layers of 1.0 MiB, 22 of 416.1 MiB", "24 layers of 1.0 MiB to 416.1 MiB".
std::string describe_layers(const std::vector<std::uint64_t>& layer_bytes) {
  std::string text;
  std::size_t runs = 0;
  for (std::size_t begin = 0; begin < layer_bytes.size();) {
    std::size_t end = begin;
    while (end < layer_bytes.size() && layer_bytes[end] == layer_bytes[begin]) ++end;
    const std::size_t count = end - begin;
    text += runs++ == 0 ? counted(count, "layer") : fmt::format(", {}", count);
    text += fmt::format(" of {}", format_bytes(layer_bytes[begin]));
    begin = end;
  }
  if (runs <= kMaxRuns) return text;
  const auto [least, most] = std::minmax_element(layer_bytes.begin(), layer_bytes.end());
  return fmt::format("{} of {} to {}", counted(layer_bytes.size(), "layer"), format_bytes(*least),
                     format_bytes(*most));
}

void print_row(const Share& share, std::uint64_t bytes, const std::string& what) {
  fmt::print("  {:>11}  {:>15}  {}\n", format_bytes(bytes), counted(share.tensors, "tensor"),
             printable(what));
}

void print_text(const Summary& summary) {
  fmt::print("{} of {}\n", counted(summary.shards.size(), "shard"), printable(summary.address));
  fmt::print("{}", describe_path(summary.path));
  for (std::size_t i = 0; i < summary.shards.size(); ++i) {
    print_row(summary.shards[i], summary.shard_bytes[i],
              std::filesystem::path(summary.shard_paths[i]).filename().string());
  }
  fmt::print("tensors\n");
  for (const auto& [dtype, share] : summary.dtypes) print_row(share, share.bytes, dtype);
  if (summary.lists.empty()) fmt::print("no list of layers numbered from 0\n");
  for (const ListSummary& entry : summary.lists) {
    fmt::print("layers {}\n", printable(entry.list.prefix));
    fmt::print("  {:>11}  {}\n", format_bytes(entry.list.bytes), describe_layers(entry.layer_bytes));
    print_row(entry.outside, entry.outside.bytes, "outside");
  }
}

nlohmann::json to_json(const Summary& summary) {
  nlohmann::json json = {{"checkpoint", summary.address},
                         {"path", path_to_json(summary.path)},
                         {"tensors", summary.all.tensors},
                         {"bytes", summary.all.bytes}};
  for (std::size_t i = 0; i < summary.shards.size(); ++i) {
    json["shards"].push_back({{"path", summary.shard_paths[i]},
                              {"bytes", summary.shard_bytes[i]},
                              {"tensors", summary.shards[i].tensors}});
  }
  json["dtypes"] = nlohmann::json::object();
  for (const auto& [dtype, share] : summary.dtypes) {
    json["dtypes"][dtype] = {{"tensors", share.tensors}, {"bytes", share.bytes}};
  }
  json["layer_lists"] = nlohmann::json::array();
  for (const ListSummary& entry : summary.lists) {
    json["layer_lists"].push_back(
        {{"prefix", entry.list.prefix},
         {"count", entry.list.count},
         {"bytes", entry.list.bytes},
         {"layer_bytes", entry.layer_bytes},
         {"outside", {{"tensors", entry.outside.tensors}, {"bytes", entry.outside.bytes}}}});
  }
  return json;
}

void inspect(const std::string& address, bool as_json) {
  const Summary summary = summarise(address);
  if (as_json) {
    fmt::print("{}\n", json_text(to_json(summary)));
  } else {
    print_text(summary);
  }
}

}  // namespace

void add_inspect(CLI::App& program) {
  CLI::App* command = program.add_subcommand(
      "inspect", "List a checkpoint's shards, tensors and layers;\nreads its headers only");
  const auto address = std::make_shared<std::string>();  // shared: the callback lives in `program`
  const auto as_json = std::make_shared<bool>(false);
  command->add_option("PATH", *address, "A .safetensors file or a checkpoint's directory")->required();
  command->add_flag("--json", *as_json, "Print one JSON object");
  command->callback([address, as_json] { inspect(*address, *as_json); });
}

}  // namespace tierstream
