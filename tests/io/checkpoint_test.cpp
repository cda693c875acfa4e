#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "support/checkpoint_files.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using ::testing::ElementsAre;

constexpr const char* kIndex = "model.safetensors.index.json";

std::string index_json(const std::map<std::string, std::string>& weight_map,
                       std::optional<std::uint64_t> total_size = std::nullopt) {
  std::string json = "{";
  if (total_size) json += "\"metadata\":{\"total_size\":" + std::to_string(*total_size) + ",\"x\":[1]},";
  json += "\"weight_map\":{";
  for (const auto& [tensor, shard] : weight_map) json += '"' + tensor + "\":\"" + shard + "\",";
  json.back() = '}';
  return json + "}";
}

std::vector<std::string> names(const std::vector<CheckpointTensor>& tensors) {
  std::vector<std::string> names;
  for (const CheckpointTensor& tensor : tensors) names.push_back(tensor.name);
  return names;
}

std::vector<std::string> names(const Layer& layer) {
  std::vector<std::string> names;
  for (const TensorSpec& tensor : layer.tensors) names.push_back(tensor.name);
  return names;
}

std::vector<std::string> prefixes(const Checkpoint& checkpoint) {
  std::vector<std::string> prefixes;
  for (const LayerList& list : checkpoint.layer_lists()) prefixes.push_back(list.prefix);
  return prefixes;
}

class CheckpointTest : public ::testing::Test {
 protected:
  void write_shard(const std::string& name, const std::vector<GoldenTensor>& tensors,
                   const std::map<std::string, std::string>& metadata = {}) {
    directory_.write(name, golden_safetensors(tensors, metadata));
  }
  void write_index(const std::map<std::string, std::string>& weight_map,
                   std::optional<std::uint64_t> total_size = std::nullopt) {
    directory_.write(kIndex, bytes_of_text(index_json(weight_map, total_size)));
  }
  Checkpoint open() const { return Checkpoint::open(directory_.path()); }
  Thrown refusal() const {
    return thrown_by([&] { open(); });
  }

  /// A checkpoint of one file with these tensors.
  Checkpoint with(const std::vector<GoldenTensor>& tensors) {
    write_shard("model.safetensors", tensors);
    return open();
  }

  TemporaryDirectory directory_;
};

TEST_F(CheckpointTest, OpensOneFile) {
  write_shard("x.safetensors", {{"b"}, {"a", DType::kU8, {5}}}, {{"format", "pt"}});
  const std::string path = directory_.path("x.safetensors");
  const Checkpoint checkpoint = Checkpoint::open(path);
  ASSERT_EQ(checkpoint.files().size(), 1U);
  EXPECT_EQ(checkpoint.files()[0].path, path);
  EXPECT_EQ(checkpoint.files()[0].info.bytes, std::filesystem::file_size(path));
  EXPECT_THAT(names(checkpoint.tensors()), ElementsAre("a", "b"));
  EXPECT_EQ(checkpoint.metadata().at("format"), "pt");
}

TEST_F(CheckpointTest, OpensAFileWithoutTheSuffixAndByScheme) {
  write_shard("blob", {{"a"}});
  EXPECT_EQ(Checkpoint::open(directory_.path("blob")).tensors().size(), 1U);
  EXPECT_EQ(Checkpoint::open("posix://" + directory_.path("blob")).tensors().size(), 1U);
}

TEST_F(CheckpointTest, TellsWhichWayTheHeadersWereRead) {
  write_shard("model.safetensors", {{"a", DType::kF32, {}}});
  const std::string path = directory_.path("model.safetensors");
  const StoragePath buffered =
      Checkpoint::open("posix://" + path, {.cache = CacheUse::kBuffered}).storage_path();
  EXPECT_EQ(buffered.backend, "posix");
  EXPECT_FALSE(buffered.direct);
  const StoragePath best = Checkpoint::open("posix://" + path).storage_path();
  EXPECT_NE(best.direct, best.fallbacks.size() == 1);
}

TEST_F(CheckpointTest, FindsEachTensorsBytesInTheFile) {
  const std::vector<GoldenTensor> tensors = {{"b"}, {"empty", DType::kF32, {0}}, {"a", DType::kU8, {5}}};
  const Checkpoint checkpoint = with(tensors);
  const std::unique_ptr<StorageBackend> storage = checkpoint.open_storage()();
  const FileId file = storage->open(checkpoint.files()[0].path);
  for (const GoldenTensor& tensor : tensors) {
    const CheckpointTensor* found = checkpoint.find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(found->dtype, tensor.dtype);
    EXPECT_EQ(found->shape, tensor.shape);
    std::vector<std::byte> content(found->bytes);
    if (!content.empty()) read_exactly(*storage, file, found->offset, content);
    EXPECT_EQ(content, tensor.content());
  }
  EXPECT_EQ(checkpoint.find("c"), nullptr);
  EXPECT_EQ(checkpoint.find(""), nullptr);
}

TEST_F(CheckpointTest, OpensADirectoryWithOneFile) {
  EXPECT_THAT(names(with({{"a"}}).tensors()), ElementsAre("a"));
}

TEST_F(CheckpointTest, PrefersTheIndexAndIgnoresWhatItDoesNotList) {
  write_shard("model.safetensors", {{"stale"}});
  write_shard("1.safetensors", {{"a"}, {"extra"}}, {{"k", "first"}, {"one", "1"}});
  write_shard("2.safetensors", {{"a", DType::kU8, {1}}, {"b"}}, {{"k", "second"}, {"two", "2"}});
  write_index({{"a", "1.safetensors"}, {"b", "2.safetensors"}}, 48);
  const Checkpoint checkpoint = open();
  EXPECT_THAT(names(checkpoint.tensors()), ElementsAre("a", "b"));
  EXPECT_EQ(checkpoint.find("a")->dtype, DType::kF32);
  EXPECT_EQ(checkpoint.files().size(), 2U);
  EXPECT_EQ(checkpoint.files()[checkpoint.find("b")->file].path, directory_.path("2.safetensors"));
  EXPECT_EQ(checkpoint.metadata(),
            (std::map<std::string, std::string>{{"k", "first"}, {"one", "1"}, {"two", "2"}}));
}

TEST_F(CheckpointTest, HoldsAFileOnceByWhicheverNamesItIsListed) {
  std::filesystem::create_directory(directory_.path("sub"));
  write_shard("sub/1.safetensors", {{"a"}, {"b"}, {"c"}});
  std::filesystem::create_symlink(directory_.path("sub/1.safetensors"), directory_.path("link.safetensors"));
  write_index({{"a", "sub/1.safetensors"}, {"b", "./sub/../sub/1.safetensors"}, {"c", "link.safetensors"}});
  const Checkpoint checkpoint = open();
  EXPECT_EQ(checkpoint.files().size(), 1U);
  EXPECT_EQ(checkpoint.tensors().size(), 3U);
}

TEST_F(CheckpointTest, FollowsLinksOutOfTheDirectory) {
  const TemporaryDirectory blobs;
  blobs.write("0123", golden_safetensors({{"a"}}));
  std::filesystem::create_symlink(blobs.path("0123"), directory_.path("1.safetensors"));
  write_index({{"a", "1.safetensors"}});
  EXPECT_EQ(open().tensors().size(), 1U);
}

TEST_F(CheckpointTest, OpensStoresThatKnowNoDirectories) {
  const auto files = std::make_shared<MemoryFiles>();
  (*files)["m/1.safetensors"] = golden_safetensors({{"a"}});
  const std::string index = index_json({{"a", "1.safetensors"}}, 24);
  const auto index_bytes = bytes_of_text(index);
  (*files)[std::string("m/") + kIndex].assign(index_bytes.begin(), index_bytes.end());
  (*files)["single/model.safetensors"] = golden_safetensors({{"b"}});
  StorageRegistry registry;
  registry.add("memory",
               [files](const StorageOptions& options) { return make_memory_backend(files, options); });

  EXPECT_THAT(names(Checkpoint::open("memory://m", {}, registry).tensors()), ElementsAre("a"));
  EXPECT_THAT(names(Checkpoint::open("memory://single", {}, registry).tensors()), ElementsAre("b"));
  EXPECT_THAT(names(Checkpoint::open("memory://single/model.safetensors", {}, registry).tensors()),
              ElementsAre("b"));
  EXPECT_EQ(thrown_by([&] { Checkpoint::open("memory://none", {}, registry); }).errc, Errc::kOpenFailed);
}

TEST_F(CheckpointTest, RefusesWhatIsNoCheckpoint) {
  const std::string nothing_there =
      ": neither a file nor a directory with model.safetensors.index.json or model.safetensors";
  EXPECT_EQ(refusal(), (Thrown{Errc::kNotARegularFile, directory_.path() + nothing_there}));
  EXPECT_EQ(
      thrown_by([&] { Checkpoint::open(directory_.path("none")); }),
      (Thrown{Errc::kOpenFailed, directory_.path("none") + nothing_there + ": No such file or directory"}));
  const Thrown no_file = thrown_by([&] { Checkpoint::open(directory_.path("none.safetensors")); });
  EXPECT_EQ(no_file.errc, Errc::kOpenFailed);
  EXPECT_THAT(no_file.what, ::testing::StartsWith(directory_.path("none.safetensors")));
  ASSERT_EQ(::mkfifo(directory_.path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(thrown_by([&] { Checkpoint::open(directory_.path("fifo")); }).errc, Errc::kNotARegularFile);
}

TEST_F(CheckpointTest, NamesTheFileWhoseHeaderIsWrong) {
  write_shard("1.safetensors", {{"a"}});
  directory_.write("2.safetensors", bytes_of_text("short"));
  write_index({{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  EXPECT_EQ(refusal(), (Thrown{Errc::kHeaderTooSmall,
                               directory_.path("2.safetensors") +
                                   ": too small for a safetensors header: expected 8 bytes, found 5"}));
}

TEST_F(CheckpointTest, RefusesAMissingShardNamingATensorInIt) {
  write_index({{"a", "1.safetensors"}});
  EXPECT_EQ(refusal(),
            (Thrown{Errc::kShardMissing,
                    directory_.path("1.safetensors") +
                        ": tensor \"a\": the index maps it to this shard, which does not exist: No "
                        "such file or directory"}));
}

TEST_F(CheckpointTest, RefusesATensorThatIsNotInItsShardThoughItIsInAnother) {
  write_shard("1.safetensors", {{"a"}});
  write_shard("2.safetensors", {{"b"}});
  write_index({{"a", "2.safetensors"}, {"b", "2.safetensors"}});
  EXPECT_EQ(refusal(),
            (Thrown{Errc::kTensorMissing,
                    directory_.path("2.safetensors") +
                        ": tensor \"a\": the index maps it to this shard, which does not hold it"}));
}

TEST_F(CheckpointTest, RefusesATensorThatIsMappedTwice) {
  directory_.write(kIndex, bytes_of_text(R"({"weight_map":{"a":"1.safetensors","a":"2.safetensors"}})"));
  EXPECT_EQ(refusal(),
            (Thrown{Errc::kInvalidIndex, directory_.path(kIndex) + ": duplicate key \"a\" at byte 35"}));
}

TEST_F(CheckpointTest, RefusesShardNamesThatLeaveTheDirectory) {
  for (const std::string name :
       {"../1.safetensors", "/etc/passwd", "a/../../b", "..", ".", "", "a/", "a\\u0000b"}) {
    write_index({{"t", name}});
    const Thrown thrown = refusal();
    EXPECT_EQ(thrown.errc, Errc::kInvalidIndex) << name;
    EXPECT_THAT(thrown.what, ::testing::EndsWith("is not a file below the index's directory at byte 19"))
        << name;
  }
  EXPECT_EQ(refusal().what,
            directory_.path(kIndex) +
                ": tensor \"t\": shard \"a\\x00b\" is not a file below the index's directory at "
                "byte 19");
}

TEST_F(CheckpointTest, RefusesATotalSizeThatIsNotTheSumOfTheTensorsListed) {
  write_shard("1.safetensors", {{"a"}, {"extra"}});
  write_index({{"a", "1.safetensors"}}, 48);
  EXPECT_EQ(refusal(), (Thrown{Errc::kInvalidIndex,
                               directory_.path(kIndex) +
                                   ": metadata.total_size is not the size of the tensors listed: expected 48 "
                                   "bytes, found 24"}));
}

TEST_F(CheckpointTest, RefusesAnIndexThatIsNone) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "invalid JSON (no text) at byte 0"},
      {"[]", "expected an object at byte 0"},
      {"{}", "no weight_map"},
      {R"({"weight_map":[]})", "expected an object at byte 14"},
      {R"({"weight_map":{"a":1}})", "tensor \"a\": expected a string at byte 19"},
      {R"({"metadata":{"total_size":-1},"weight_map":{}})", "expected an unsigned integer at byte 26"},
      {R"({"weight_map":{}} x)", "invalid JSON (it does not end with its closing brace) at byte 19"},
  };
  for (const auto& [json, message] : cases) {
    directory_.write(kIndex, bytes_of_text(json));
    EXPECT_EQ(refusal(), (Thrown{Errc::kInvalidIndex, directory_.path(kIndex) + ": " + message}));
  }
}

TEST_F(CheckpointTest, RefusesAnIndexTooLargeToBeOneBeforeReadingIt) {
  directory_.write(kIndex, bytes_of_text("{"));
  std::filesystem::resize_file(directory_.path(kIndex), 100'000'001);
  EXPECT_EQ(refusal(), (Thrown{Errc::kInvalidIndex, directory_.path(kIndex) +
                                                        ": an index of more than 100000000 bytes: found "
                                                        "100000001 bytes"}));
}

TEST_F(CheckpointTest, ListsTheLayersItFindsTheLargestFirst) {
  const Checkpoint checkpoint = with({{"h.0.w"},
                                      {"h.1.w"},
                                      {"h.1.experts.0.w", DType::kU8, {1}},
                                      {"small.0.w", DType::kU8, {1}},
                                      {"gap.0.w"},
                                      {"gap.2.w"},
                                      {"from_one.1.w"},
                                      {"zeros.00.w"},
                                      {"no_suffix.0"},
                                      {"embed.weight"}});
  EXPECT_THAT(prefixes(checkpoint), ElementsAre("h", "h.1.experts", "small"));
  const LayerList list = checkpoint.layer_lists()[0];
  EXPECT_EQ(list.count, 2U);
  EXPECT_EQ(list.bytes, 49U);
}

TEST_F(CheckpointTest, GroupsTensorsIntoLayersInFileOrder) {
  const Checkpoint checkpoint =
      with({{"h.1.z"}, {"embed"}, {"h.1.a"}, {"h.0.m.w"}, {"h.10x.w"}, {"h.0"}, {"hh.0.w"}});
  const LayerTable table = checkpoint.layers("h");
  ASSERT_EQ(table.layers.size(), 2U);
  EXPECT_EQ(table.layers[0].name, "h.0");
  EXPECT_THAT(names(table.layers[0]), ElementsAre("m.w"));
  EXPECT_THAT(names(table.layers[1]), ElementsAre("z", "a"));
  EXPECT_THAT(names(table.outside), ElementsAre("embed", "h.10x.w", "h.0", "hh.0.w"));
  EXPECT_EQ(table.files.size(), 1U);
  EXPECT_TRUE(table.open_storage);

  const TensorSpec& tensor = table.layers[1].tensors[0];
  const CheckpointTensor* found = checkpoint.find(table.layers[1].full_name(tensor));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(std::get<FileExtent>(tensor.source).offset, found->offset);
  EXPECT_EQ(std::get<FileExtent>(tensor.source).file, found->file);
  EXPECT_EQ(tensor.bytes, 24U);
  EXPECT_EQ(tensor.shape, found->shape);
}

TEST_F(CheckpointTest, GroupsLayersAcrossShardsAndPastTen) {
  std::map<std::string, std::string> weight_map;
  std::vector<GoldenTensor> shards[2];
  for (int layer = 0; layer < 12; ++layer) {
    for (int shard = 0; shard < 2; ++shard) {
      const std::string name = "h." + std::to_string(layer) + "." + (shard == 0 ? "y" : "x");
      shards[shard].push_back({name});
      weight_map[name] = std::to_string(shard);
    }
  }
  write_shard("0", shards[0]);
  write_shard("1", shards[1]);
  write_index(weight_map);
  const LayerTable table = open().layers("h");
  ASSERT_EQ(table.layers.size(), 12U);
  for (std::size_t i = 0; i < table.layers.size(); ++i) {
    EXPECT_EQ(table.layers[i].name, "h." + std::to_string(i));
    EXPECT_THAT(names(table.layers[i]), ElementsAre("y", "x"));
  }
}

TEST_F(CheckpointTest, TakesNumbersAtTheStartAsLayersOfTheEmptyPrefix) {
  const Checkpoint checkpoint = with({{"0.weight"}, {"1.weight"}});
  EXPECT_THAT(prefixes(checkpoint), ElementsAre(""));
  const LayerTable table = checkpoint.layers("");
  ASSERT_EQ(table.layers.size(), 2U);
  EXPECT_EQ(table.layers[1].full_name(table.layers[1].tensors[0]), "1.weight");
}

TEST_F(CheckpointTest, NamesTheListsThatExistWhenAPrefixDoesNot) {
  EXPECT_EQ(thrown_by([checkpoint = with({{"a.0.w"}, {"b.0.w"}, {"b.1.w"}})] { checkpoint.layers("h"); }),
            (Thrown{Errc::kNoSuchLayers, directory_.path() +
                                             ": no layers \"h.0\", ...; there are \"b\" (2 layers), \"a\" (1 "
                                             "layer)"}));
  EXPECT_EQ(thrown_by([checkpoint = with({{"a"}})] { checkpoint.layers("a"); }),
            (Thrown{Errc::kNoSuchLayers,
                    directory_.path() + ": no layers \"a.0\", ...; there are no numbered layers at all"}));
}

TEST_F(CheckpointTest, NamesAFewListsWhenThereAreMany) {
  std::vector<GoldenTensor> tensors;
  for (char prefix = 'a'; prefix <= 'k'; ++prefix) tensors.push_back({std::string(1, prefix) + ".0.w"});
  EXPECT_THAT(thrown_by([checkpoint = with(tensors)] { checkpoint.layers("z"); }).what,
              ::testing::EndsWith("\"h\" (1 layer), 3 more"));
}

TEST_F(CheckpointTest, NamesTheLayerThatIsMissing) {
  EXPECT_EQ(thrown_by([checkpoint = with({{"h.0.w"}, {"h.1"}, {"h.2.w"}})] { checkpoint.layers("h"); }),
            (Thrown{Errc::kNoSuchLayers, directory_.path() + ": layer \"h.1\" is missing, \"h.2\" exists"}));
}

}  // namespace
}  // namespace tierstream
