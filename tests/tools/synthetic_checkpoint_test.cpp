#include "tools/synthetic_checkpoint.h"

#include <gmock/gmock.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <tierstream/io/checkpoint.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "support/byte_units.h"
#include "support/checkpoint_files.h"
#include "support/thrown.h"
#include "tools/page_cache.h"
#include "tools/synthetic_contents.h"

namespace tierstream {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

SyntheticSpec small_spec() { return {.layers = 3, .layer_bytes = kMiB / 4, .vocabulary = 128, .seed = 11}; }

std::vector<std::string> names_in(const TemporaryDirectory& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path())) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

std::vector<std::byte> content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// Compares every tensor with its generator; reads the files whole.
void expect_contents_of_seed(const Checkpoint& checkpoint, std::uint64_t seed) {
  for (std::size_t file = 0; file < checkpoint.files().size(); ++file) {
    const std::vector<std::byte> content = content_of(checkpoint.files()[file].path);
    for (const CheckpointTensor& tensor : checkpoint.tensors()) {
      if (tensor.file != file) continue;
      const auto bytes = std::span(content).subspan(tensor.offset, tensor.bytes);
      EXPECT_EQ(SyntheticContents(seed, tensor.dtype, tensor.name).first_difference(0, bytes), std::nullopt)
          << tensor.name;
    }
  }
}

TEST(SyntheticModel, ALayerOfLlama3SizeHasItsShapes) {
  const SyntheticModel model = design_synthetic_model({.layers = 1, .layer_bytes = 416 * kMiB});
  EXPECT_EQ(model.hidden, 4096u);
  EXPECT_NEAR(static_cast<double>(model.intermediate), 14336, 2);
}

TEST(SyntheticModel, HasTheShapesThatAreGiven) {
  const SyntheticModel model = design_synthetic_model({.hidden = 2048, .intermediate = 8192});
  EXPECT_EQ(model.hidden, 2048u);
  EXPECT_EQ(model.intermediate, 8192u);
  EXPECT_EQ(model.layer_bytes, 2 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192 + 2 * 2048));
  for (const SyntheticSpec& spec : {SyntheticSpec{.hidden = 100, .intermediate = 100},
                                    SyntheticSpec{.hidden = 64}, SyntheticSpec{.intermediate = 64},
                                    SyntheticSpec{.hidden = 64, .intermediate = std::uint64_t{1} << 40}}) {
    EXPECT_EQ(thrown_by([&] { design_synthetic_model(spec); }).errc, Errc::kInvalidArgument);
  }
}

TEST(SyntheticModel, ALayerComesWithinOneAndAHalfRowsOfWhatWasAskedFor) {
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF8E4M3}) {
    for (std::uint64_t wished = 100'000; wished < 400 * kMiB; wished = wished * 13 / 7) {
      const SyntheticModel model =
          design_synthetic_model({.layers = 1, .layer_bytes = wished, .dtype = dtype});
      const std::uint64_t row_bytes = model.hidden * bits_per_element(dtype) / 8;
      EXPECT_NEAR(static_cast<double>(model.layer_bytes), static_cast<double>(wished),
                  1.5 * static_cast<double>(row_bytes));
    }
  }
}

TEST(SyntheticCheckpoint, OpensAsOneListOfLayersAndThreeTensorsOutside) {
  const TemporaryDirectory directory;
  const SyntheticModel model = write_synthetic_checkpoint(directory.path(), small_spec());
  EXPECT_THAT(names_in(directory), ElementsAre("model.safetensors"));
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  const std::vector<LayerList> lists = checkpoint.layer_lists();
  ASSERT_EQ(lists.size(), 1u);
  EXPECT_EQ(lists[0].prefix, "model.layers");
  EXPECT_EQ(lists[0].count, 3u);
  EXPECT_EQ(lists[0].bytes, 3 * model.layer_bytes);
  const LayerTable table = checkpoint.layers("model.layers");
  std::vector<std::string> names;
  for (const TensorSpec& tensor : table.layers[2].tensors) names.push_back(tensor.name);
  EXPECT_THAT(names,
              UnorderedElementsAre("self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                   "self_attn.v_proj.weight", "self_attn.o_proj.weight",
                                   "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight",
                                   "input_layernorm.weight", "post_attention_layernorm.weight"));
  names.clear();
  for (const TensorSpec& tensor : table.outside.tensors) names.push_back(tensor.name);
  EXPECT_THAT(names,
              UnorderedElementsAre("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"));
}

TEST(SyntheticCheckpoint, EveryDtypeIsWrittenAsItsGeneratorSays) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32, DType::kF64, DType::kF8E5M2, DType::kI8,
                            DType::kBool, DType::kF4, DType::kF6E2M3}) {
    const TemporaryDirectory directory;
    SyntheticSpec spec = small_spec();
    spec.dtype = dtype;
    write_synthetic_checkpoint(directory.path(), spec);
    const Checkpoint checkpoint = Checkpoint::open(directory.path());
    EXPECT_EQ(checkpoint.tensors().front().dtype, dtype);
    expect_contents_of_seed(checkpoint, spec.seed);
  }
}

TEST(SyntheticCheckpoint, ShardsAreAboutEqualAndAnIndexNamesThem) {
  const TemporaryDirectory directory;
  SyntheticSpec spec = small_spec();
  spec.layers = 12;
  spec.shards = 3;
  const SyntheticModel model = write_synthetic_checkpoint(directory.path(), spec);
  EXPECT_THAT(names_in(directory),
              UnorderedElementsAre("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                   "model-00003-of-00003.safetensors", "model.safetensors.index.json"));
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  EXPECT_EQ(checkpoint.tensors().size(), model.tensors.size());
  for (const SourceFile& file : checkpoint.files()) {
    EXPECT_NEAR(static_cast<double>(file.info.bytes), static_cast<double>(model.total_bytes) / 3,
                static_cast<double>(model.layer_bytes));
  }
  expect_contents_of_seed(checkpoint, spec.seed);
}

TEST(SyntheticCheckpoint, AsManyShardsAsTensorsHoldOneEach) {
  const TemporaryDirectory directory;
  SyntheticSpec spec = small_spec();
  spec.shards = static_cast<std::uint32_t>(design_synthetic_model(spec).tensors.size());
  write_synthetic_checkpoint(directory.path(), spec);
  EXPECT_EQ(Checkpoint::open(directory.path()).files().size(), spec.shards);
  spec.shards += 1;
  const Thrown thrown =
      thrown_by([&] { write_synthetic_checkpoint(directory.path(), spec, {.overwrite = true}); });
  EXPECT_EQ(thrown,
            (Thrown{Errc::kInvalidArgument, "a synthetic checkpoint of 31 shards: 1 to 30 are possible"}));
}

TEST(SyntheticCheckpoint, SkewMovesTheDataOffItsAlignment) {
  for (const std::uint64_t skew : {0u, 1u, 7u, 64u, 4096u + 8u}) {
    const TemporaryDirectory directory;
    SyntheticSpec spec = small_spec();
    spec.skew = skew;
    write_synthetic_checkpoint(directory.path(), spec);
    const Checkpoint checkpoint = Checkpoint::open(directory.path());
    EXPECT_EQ(checkpoint.find("model.embed_tokens.weight")->offset % 4096, skew % 4096);
    expect_contents_of_seed(checkpoint, spec.seed);
  }
}

TEST(SyntheticCheckpoint, ItsSeedStandsInTheMetadata) {
  const TemporaryDirectory directory;
  SyntheticSpec spec = small_spec();
  spec.seed = ~std::uint64_t{0};
  write_synthetic_checkpoint(directory.path(), spec);
  auto metadata = Checkpoint::open(directory.path()).metadata();
  EXPECT_EQ(synthetic_seed(metadata), spec.seed);
  metadata["generator_version"] = "0";
  EXPECT_EQ(synthetic_seed(metadata), std::nullopt);
  EXPECT_EQ(synthetic_seed({{"seed", "5"}}), std::nullopt);
}

TEST(SyntheticCheckpoint, LeavesNoPageInThePageCache) {
  const TemporaryDirectory directory;
  struct statfs file_system {};
  ASSERT_EQ(::statfs(directory.path().c_str(), &file_system), 0);
  if (file_system.f_type == TMPFS_MAGIC) GTEST_SKIP() << directory.path() << " lies in memory";
  SyntheticSpec spec = small_spec();
  spec.layer_bytes = 8 * kMiB;
  write_synthetic_checkpoint(directory.path(), spec);
  EXPECT_NO_THROW(check_cold(directory.path("model.safetensors")));
}

TEST(SyntheticCheckpoint, AnExistingOneIsReplacedOnlyWhenAsked) {
  const TemporaryDirectory directory;
  SyntheticSpec spec = small_spec();
  spec.shards = 2;
  write_synthetic_checkpoint(directory.path(), spec);
  directory.write("notes.txt", bytes_of_text("mine"));
  spec.shards = 1;
  spec.seed = 12;
  const Thrown thrown = thrown_by([&] { write_synthetic_checkpoint(directory.path(), spec); });
  EXPECT_EQ(thrown.errc, Errc::kInvalidArgument);
  EXPECT_THAT(thrown.what, HasSubstr(directory.path() + "/model"));
  expect_contents_of_seed(Checkpoint::open(directory.path()), 11);

  write_synthetic_checkpoint(directory.path(), spec, {.overwrite = true});
  EXPECT_THAT(names_in(directory), UnorderedElementsAre("model.safetensors", "notes.txt"));
  expect_contents_of_seed(Checkpoint::open(directory.path()), 12);
}

TEST(SyntheticCheckpoint, MoreThanTheDiskHoldsIsRefusedBeforeAnythingIsWritten) {
  const TemporaryDirectory directory;
  const Thrown thrown = thrown_by([&] {
    write_synthetic_checkpoint(directory.path(), {.layers = 50'000, .layer_bytes = std::uint64_t{1} << 42});
  });
  EXPECT_EQ(thrown.errc, Errc::kWriteFailed);
  EXPECT_THAT(thrown.what, HasSubstr("too little space on the disk: expected"));
  EXPECT_THAT(names_in(directory), ElementsAre());
}

TEST(SyntheticCheckpoint, ThoseItReplacesAreNotCountedAsFreeSpace) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", {});
  const SyntheticSpec spec{.layers = 4, .layer_bytes = std::uint64_t{1} << 40};
  const std::uint64_t bytes = design_synthetic_model(spec).total_bytes;
  if (std::filesystem::space(directory.path()).available >= bytes) GTEST_SKIP() << "the disk holds it";
  std::filesystem::resize_file(directory.path("model.safetensors"), bytes);  // a hole
  const Thrown thrown =
      thrown_by([&] { write_synthetic_checkpoint(directory.path(), spec, {.overwrite = true}); });
  EXPECT_EQ(thrown.errc, Errc::kWriteFailed);
  EXPECT_THAT(thrown.what, HasSubstr("too little space on the disk: expected"));
  EXPECT_THAT(names_in(directory), ElementsAre("model.safetensors"));
}

TEST(SyntheticCheckpoint, AStopLeavesNothingBehind) {
  const TemporaryDirectory directory;
  SyntheticSpec spec = small_spec();
  spec.shards = 3;
  std::stop_source stop;
  const std::uint64_t half = design_synthetic_model(spec).total_bytes / 2;
  const auto stop_half_way = [&](std::uint64_t done_bytes) {
    if (done_bytes > half) stop.request_stop();
  };
  const Thrown thrown = thrown_by([&] {
    write_synthetic_checkpoint(directory.path(), spec, {.progress = stop_half_way, .stop = stop.get_token()});
  });
  EXPECT_EQ(thrown.errc, Errc::kCancelled);
  EXPECT_THAT(names_in(directory), ElementsAre());
}

TEST(SyntheticCheckpoint, ProgressEndsAtAllBytes) {
  const TemporaryDirectory directory;
  std::uint64_t last = 0;
  const SyntheticModel model = write_synthetic_checkpoint(
      directory.path(), small_spec(), {.progress = [&](std::uint64_t done_bytes) { last = done_bytes; }});
  EXPECT_EQ(last, model.total_bytes);
}

}  // namespace
}  // namespace tierstream
