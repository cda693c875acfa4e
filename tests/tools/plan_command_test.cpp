#include <gmock/gmock.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "command.h"
#include "support/checkpoint_files.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream {
namespace {

using nlohmann::json;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using testing::UnorderedElementsAre;

constexpr std::uint32_t kPlannedLayers = 6;
constexpr const char* kPlannedBudget = "gpu=36MiB,pinned=4MiB,page_cache=12MiB";  // some of everything
constexpr const char* kRates = "disk=10MB,host_to_device=1GB";

class PlanCommand : public testing::Test {
 protected:
  /// A checkpoint that all tests share; they do not write to it.
  static void SetUpTestSuite() {
    directory_ = new TemporaryDirectory;
    write_synthetic_checkpoint(
        path(),
        {.layers = kPlannedLayers, .layer_bytes = 8u << 20, .vocabulary = 256, .seed = 3, .shards = 2});
  }
  static void TearDownTestSuite() { delete directory_; }

  static std::string path() { return directory_->path(); }
  static std::vector<std::string> arguments(const std::vector<std::string>& more) {
    std::vector<std::string> all = {"plan", path(), "--budget", kPlannedBudget};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  static json plan(std::vector<std::string> more) {
    more.insert(more.end(), {"--json"});
    const CommandResult result = run_command(arguments(more));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out);
  }

 private:
  static inline TemporaryDirectory* directory_ = nullptr;
};

TEST_F(PlanCommand, PrintsExactlyTheDocumentedKeys) {
  const json report = plan({"--device", "cpu", "--rates", kRates, "--compute", "0.25"});
  EXPECT_THAT(keys_of(report),
              UnorderedElementsAre("checkpoint", "layers", "device", "budget", "used", "minimum", "slots",
                                   "ring", "outside_bytes", "homes", "rates", "pass", "one_more_gib",
                                   "curves", "layer_homes"));
  for (const char* tiers : {"budget", "used", "minimum", "one_more_gib"}) {
    EXPECT_THAT(keys_of(report[tiers]), UnorderedElementsAre("gpu", "pinned", "page_cache")) << tiers;
  }
  EXPECT_THAT(keys_of(report["slots"]), UnorderedElementsAre("count", "bytes"));
  EXPECT_THAT(keys_of(report["ring"]), UnorderedElementsAre("blocks", "block_bytes"));
  EXPECT_THAT(keys_of(report["homes"]),
              UnorderedElementsAre("resident_bytes", "mapped_bytes", "from_kept_bytes", "from_disk_bytes"));
  EXPECT_THAT(keys_of(report["pass"]), UnorderedElementsAre("disk_bytes", "copied_bytes", "compute_seconds",
                                                            "bound_seconds", "predicted_seconds", "binding"));
  EXPECT_THAT(keys_of(report["one_more_gib"]["gpu"]),
              UnorderedElementsAre("seconds", "disk_bytes", "copied_bytes"));
  EXPECT_THAT(keys_of(report["curves"]), UnorderedElementsAre("gpu", "page_cache"));
  EXPECT_THAT(keys_of(report["curves"]["gpu"][0]),
              UnorderedElementsAre("bytes", "seconds", "disk_bytes", "copied_bytes"));
  ASSERT_EQ(report["layer_homes"].size(), kPlannedLayers);
  EXPECT_THAT(keys_of(report["layer_homes"][0]),
              UnorderedElementsAre("name", "resident_bytes", "mapped_bytes", "from_kept_bytes",
                                   "from_disk_bytes", "disk_bytes", "copied_bytes"));
  EXPECT_EQ(report["layer_homes"][5]["name"], "model.layers.5");
  EXPECT_EQ(report["rates"]["disk"], 10e6);
  EXPECT_DOUBLE_EQ(report["pass"]["compute_seconds"], kPlannedLayers * 0.25);
}

TEST_F(PlanCommand, SaysWhatARunThenDoes) {
  const json planned = plan({"--device", "cpu", "--slots", "2"});
  const CommandResult result = run_command({"run", path(), "--budget", kPlannedBudget, "--device", "cpu",
                                            "--slots", "2", "--passes", "3", "--verify", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json ran = json::parse(result.out);
  EXPECT_EQ(planned["slots"]["count"], 2);
  EXPECT_GT(planned["homes"]["mapped_bytes"], 0);
  EXPECT_EQ(ran["peak_bytes"], planned["used"]);
  // What is streamed comes from the page cache where it happens to lie there; the slots still hold the last
  // layers of the pass before.
  const json& bytes = ran["passes"][1]["bytes"];
  const std::uint64_t in_place = planned["homes"]["mapped_bytes"];
  const std::uint64_t streamed =
      bytes["disk"].get<std::uint64_t>() + bytes["page_cache"].get<std::uint64_t>() - in_place;
  const std::uint64_t disk = planned["pass"]["disk_bytes"];
  EXPECT_GT(disk, 0u);
  EXPECT_LE(streamed, disk);
  EXPECT_GE(streamed, disk - disk * 2 / kPlannedLayers - (1u << 20));
}

TEST_F(PlanCommand, GivesBytesAndNoSecondsWithoutRates) {
  const json report = plan({"--device", "cpu"});
  EXPECT_TRUE(report["rates"]["disk"].is_null());
  for (const char* key : {"compute_seconds", "bound_seconds", "predicted_seconds", "binding"}) {
    EXPECT_TRUE(report["pass"][key].is_null()) << key;
  }
  EXPECT_TRUE(report["one_more_gib"]["gpu"]["seconds"].is_null());
  EXPECT_EQ(report["one_more_gib"]["gpu"]["disk_bytes"], report["pass"]["disk_bytes"]);
  EXPECT_TRUE(report["curves"]["gpu"][0]["seconds"].is_null());
  const CommandResult text = run_command(arguments({"--device", "cpu"}));
  EXPECT_THAT(text.out, HasSubstr("no link's rate is known: --rates or --probe"));
  EXPECT_THAT(text.out, HasSubstr("a pass reads from storage"));
  EXPECT_THAT(text.out, Not(HasSubstr("predicted")));
}

TEST_F(PlanCommand, SaysWhichLinkItDoesNotCount) {
  const CommandResult result = run_command(arguments({"--device", "cuda:4000", "--rates", "disk=10MB"}));
  EXPECT_THAT(result.out, HasSubstr("\npredicted "));
  EXPECT_THAT(result.out, HasSubstr("\na link of unknown rate is taken to need no time\n"));
}

TEST_F(PlanCommand, CurvesFallToNothing) {
  const json report = plan({"--device", "cuda:4000", "--rates", kRates});
  for (const auto& [tier, points] : report["curves"].items()) {
    SCOPED_TRACE(tier);
    ASSERT_EQ(points.size(), 11u);
    for (std::size_t i = 1; i < points.size(); ++i) {
      EXPECT_GT(points[i]["bytes"], points[i - 1]["bytes"]);
      EXPECT_LE(points[i]["seconds"], points[i - 1]["seconds"]);
    }
    EXPECT_EQ(points.back()["disk_bytes"], 0);
    EXPECT_GT(points.front()["disk_bytes"], report["pass"]["disk_bytes"]);
  }
  EXPECT_EQ(report["curves"]["gpu"].back()["seconds"], 0.0);
  EXPECT_GT(report["curves"]["page_cache"].back()["seconds"], 0.0) << "kept pages are still copied";
}

TEST_F(PlanCommand, TellsPeopleAllOfItIn80Columns) {
  const CommandResult result =
      run_command(arguments({"--device", "cuda:4000", "--rates", kRates, "--compute", "0.001"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("layers  6 of model.layers on cuda:4000\n"));
  for (const char* words : {"\ntier ",
                            "\ngpu ",
                            " slots of ",
                            " resident, ",
                            " outside\n",
                            "\npinned ",
                            " a ring of ",
                            "\npage_cache ",
                            "kept pages",
                            "\nresident on the device ",
                            "\nslot, from kept pages ",
                            "\nslot, from disk ",
                            "\ndisk ",
                            ", binds\n",
                            "\nhost to device ",
                            "\ncompute ",
                            "\npredicted ",
                            "\nno less than ",
                            "\none more GiB of ",
                            " copied\n",
                            "nothing\n",
                            "a pass takes, predicted\n",
                            "\n>  36.0 MiB ",
                            "\n>  12.0 MiB ",
                            "####"}) {
    EXPECT_THAT(result.out, HasSubstr(words));
  }
  EXPECT_LE(columns_of(result.out), 80u) << result.out;
}

TEST_F(PlanCommand, SaysInALineWhereTheSizeOfATierChangesNothing) {
  const auto text = [](std::vector<std::string> more) {
    more.insert(more.begin(), {"plan", path(), "--budget", "gpu=1GiB,pinned=4MiB", "--device", "cuda:4000"});
    return run_command(more).out;
  };
  EXPECT_THAT(text({}), HasSubstr("\npage_cache    a pass reads from storage: nothing at any size\n"));
  EXPECT_THAT(text({"--rates", kRates}),
              HasSubstr("\npage_cache    a pass takes, predicted: no time at any size\n"));
  EXPECT_THAT(text({"--rates", kRates, "--compute", "2"}),
              HasSubstr("\npage_cache    a pass takes, predicted: 12.000 s at any size\n"));
}

TEST_F(PlanCommand, DrawsEachLayer) {
  const TemporaryDirectory directory;
  const std::string picture = directory.path("plan.svg");
  const CommandResult result = run_command(arguments({"--device", "cpu", "--picture", picture}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, EndsWith("\npicture " + picture + "\n"));
  std::ifstream file(picture);
  const std::string svg(std::istreambuf_iterator<char>(file), {});
  EXPECT_THAT(svg, StartsWith("<svg "));
  EXPECT_THAT(svg, EndsWith("</svg>\n"));
  const std::vector<std::string> lines = lines_of(svg);
  EXPECT_EQ(std::ranges::count_if(lines, [](const std::string& line) { return line.starts_with("<g>"); }),
            kPlannedLayers);
  for (const char* words : {">resident on the device<", ">used in place in kept pages<", ">slot, from disk<",
                            "<title>layer 5: 8.00 MiB"}) {
    EXPECT_THAT(svg, HasSubstr(words));
  }
}

TEST_F(PlanCommand, TakesByItselfWhatTheMachineHas) {
  const CommandResult result = run_command({"plan", path(), "--device", "cpu", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_GT(report["budget"]["gpu"], std::uint64_t{64} << 20);
  EXPECT_EQ(report["pass"]["disk_bytes"], 0) << "the model is small: all of it stays";
}

TEST_F(PlanCommand, MeasuresTheLinksAndLeavesNothing) {
  const auto files = [] {
    return std::distance(std::filesystem::directory_iterator(path()), std::filesystem::directory_iterator());
  };
  const auto before = files();
  const json report = plan({"--device", "cpu", "--probe"});
  for (const char* link : {"disk", "host_to_device"}) {
    if (report["rates"][link].is_null())
      continue;  // as of a disk, where the temporary directory lies in memory
    EXPECT_GT(report["rates"][link], 1e6) << "a megabyte a second";
    EXPECT_LT(report["rates"][link], 1e13) << "ten thousand gigabytes a second";
  }
  EXPECT_EQ(files(), before);
}

TEST_F(PlanCommand, HasHelpIn80Columns) {
  const CommandResult result = run_command({"plan", "--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("--rates"));
  EXPECT_LE(columns_of(result.out), 80u) << result.out;
}

TEST_F(PlanCommand, WrongUseIsRefusedInOneLine) {
  const std::string p = path();
  const TemporaryDirectory directory;
  directory.write("nolist.safetensors", golden_safetensors({{"weight"}}));
  const std::string shard = p + "/model-00001-of-00002.safetensors";
  const struct {
    std::vector<std::string> arguments;
    std::string fragment;
  } cases[] = {
      {{"plan"}, "see tierstream plan --help"},
      {{"plan", p, "--device", "cpu", "--budget", "gpu=1MiB"}, "gpu needs at least "},
      {{"plan", p, "--device", "cuda:4000", "--budget", "gpu=64KiB,pinned=4KiB"},
       "pinned needs at least 2MiB (2097152 bytes) for "},
      {{"plan", p, "--device", "cuda:4000"}, "cuda"},
      {{"plan", p, "--device", "cuda:4000", "--budget", kPlannedBudget, "--probe"}, "cuda"},
      {{"plan", p, "--device", "tpu", "--budget", kPlannedBudget}, "\"tpu\""},
      {{"plan", p, "--budget", "vram=1GiB"}, "vram"},
      {{"plan", p, "--budget", kPlannedBudget, "--layers", "model.blocks"}, "model.blocks"},
      {{"plan", p, "--budget", kPlannedBudget, "--slots", "0"}, "--slots"},
      {{"plan", p, "--budget", kPlannedBudget, "--rates", "disk=fast"},
       "--rates \"disk=fast\": a rate is bytes a second"},
      {{"plan", p, "--budget", kPlannedBudget, "--rates", "disk"}, "rates are written"},
      {{"plan", p, "--budget", kPlannedBudget, "--rates", "tape=1GB"},
       "--rates \"tape=1GB\": unknown link \"tape\"; the links are disk, host_to_device"},
      {{"plan", p, "--budget", kPlannedBudget, "--rates", "disk=1GB,disk=2GB"}, "named twice"},
      {{"plan", p, "--budget", kPlannedBudget, "--rates", "disk=0"}, "more than nothing"},
      {{"plan", p, "--budget", kPlannedBudget, "--rates", "disk=1GB", "--probe"}, "--probe"},
      {{"plan", p, "--budget", kPlannedBudget, "--compute", "-1"},
       "--compute: -1 is not a number from 0 to 1000000"},
      {{"plan", p, "--budget", kPlannedBudget, "--compute", "nan"},
       "--compute: nan is not a number from 0 to "},
      {{"plan", p, "--budget", kPlannedBudget, "--compute", "abc"}, "--compute: \"abc\" is not a number"},
      {{"plan", p, "--budget", kPlannedBudget, "--picture", directory.path("missing/plan.svg")},
       directory.path("missing/plan.svg: cannot create")},
      {{"plan", p, "--budget", kPlannedBudget, "--picture", shard}, shard + ": this file is read"},
      {{"plan", directory.path("missing")}, directory.path("missing")},
      {{"plan", directory.path("nolist.safetensors")}, "nolist.safetensors"},
  };
  for (const auto& [arguments, fragment] : cases) {
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_refusal(run_command(arguments), fragment);
  }
}

}  // namespace
}  // namespace tierstream
