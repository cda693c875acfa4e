#include "command.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <tierstream/io/checkpoint.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/byte_units.h"
#include "support/checkpoint_files.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream {
namespace {

using nlohmann::json;
using testing::AnyOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;
using testing::StartsWith;

constexpr std::uint32_t kLayers = 5;
constexpr std::uint64_t kTensorsPerLayer = 9;
constexpr std::uint64_t kTensorsOutside = 3;
constexpr const char* kBudget = "gpu=4MiB,pinned=4MiB";  // two slots and the tensors outside; not all layers

SyntheticSpec spec_of(std::uint32_t shards, std::uint64_t skew) {
  return {
      .layers = kLayers, .layer_bytes = kMiB, .vocabulary = 256, .seed = 3, .shards = shards, .skew = skew};
}

std::string text_of(const std::string& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

class RoundTrip : public testing::TestWithParam<std::tuple<std::uint32_t, std::uint64_t, bool>> {};

TEST_P(RoundTrip, EveryTensorArrivesAsItWasWritten) {
  const auto [shards, skew, landing] = GetParam();
  const TemporaryDirectory directory;
  const SyntheticModel model = write_synthetic_checkpoint(directory.path(), spec_of(shards, skew));
  std::vector<std::string> arguments = {"run", directory.path(), "--budget", kBudget,    "--passes",
                                        "3",   "--verify",       "--json",   "--device", "cpu"};
  if (!landing) arguments.push_back("--no-landing");
  const CommandResult result = run_command(arguments);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const json report = json::parse(result.out);
  EXPECT_EQ(report["verified_tensors"], 3 * kLayers * kTensorsPerLayer + kTensorsOutside);
  ASSERT_EQ(report["passes"].size(), 3u);
  for (const json& pass : report["passes"]) {
    const json& bytes = pass["bytes"];
    EXPECT_GE(bytes["disk"].get<std::uint64_t>() + bytes["gpu"].get<std::uint64_t>(),
              kLayers * model.layer_bytes);
    EXPECT_GT(bytes["disk"], 2 * model.layer_bytes) << "two slots hold two of five layers";
    EXPECT_EQ(bytes["page_cache"], 0);
    EXPECT_EQ(bytes["pinned"], 0);
  }
  EXPECT_LE(report["peak_bytes"]["gpu"], 4 * kMiB);
  EXPECT_GT(report["peak_bytes"]["gpu"], 2 * model.layer_bytes);
  EXPECT_LE(report["peak_bytes"]["pinned"], 4 * kMiB);
  const bool unaligned = skew % 64 != 0;
  if (!landing || unaligned) {
    EXPECT_GT(report["peak_bytes"]["pinned"], 0) << "the ring is in use";
  }
}

INSTANTIATE_TEST_SUITE_P(Tools, RoundTrip,
                         testing::Combine(testing::Values(1u, 3u), testing::Values(0u, 1u, 7u, 64u, 4104u),
                                          testing::Bool()));

class CommandTest : public testing::Test {
 protected:
  /// A checkpoint that all tests of a suite share; they do not write to it.
  static void SetUpTestSuite() {
    directory_ = new TemporaryDirectory;
    write_synthetic_checkpoint(path(), spec_of(2, 8));
  }
  static void TearDownTestSuite() { delete directory_; }

  static std::string path() { return directory_->path(); }

 private:
  static inline TemporaryDirectory* directory_ = nullptr;
};

TEST_F(CommandTest, SynthWritesWhatRunVerifies) {
  const TemporaryDirectory directory;
  const CommandResult synth =
      run_command({"synth", directory.path("made"), "--layers", "3", "--layer-bytes", "0.5MiB", "--shards",
                   "2", "--dtype", "f32", "--seed", "9", "--skew", "7", "--vocab", "64"});
  ASSERT_EQ(synth.exit_code, 0) << synth.err;
  EXPECT_THAT(synth.out, HasSubstr("3 layers of "));
  const CommandResult run =
      run_command({"run", directory.path("made"), "--budget", kBudget, "--verify", "--device", "cpu"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("verified 30 tensors"));
  EXPECT_LE(columns_of(synth.out.substr(0, synth.out.find(directory.path()))), 80u);
}

TEST_F(CommandTest, RunPrintsExactlyTheDocumentedKeys) {
  const CommandResult result = run_command({"run", path(), "--budget", kBudget, "--json", "--device", "cpu"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(result.out);
  using testing::UnorderedElementsAre;
  EXPECT_THAT(keys_of(report),
              UnorderedElementsAre("checkpoint", "layers", "device", "budget", "path", "first_layer_seconds",
                                   "rates", "passes", "page_cache", "peak_bytes", "verified_tensors"));
  EXPECT_THAT(keys_of(report["path"]),
              UnorderedElementsAre("backend", "direct", "cached_reads", "files_registered",
                                   "buffers_registered", "ring_registered", "fallbacks"));
  EXPECT_THAT(keys_of(report["passes"][0]),
              UnorderedElementsAre("seconds", "layers", "bytes", "unused_bytes", "stall_seconds", "verdict"));
  EXPECT_THAT(keys_of(report["passes"][0]["bytes"]),
              UnorderedElementsAre("disk", "page_cache", "pinned", "gpu"));
  EXPECT_THAT(keys_of(report["passes"][0]["stall_seconds"]),
              UnorderedElementsAre("disk", "ring", "copy", "slot"));
  EXPECT_THAT(keys_of(report["rates"]), UnorderedElementsAre("disk", "host_to_device"));
  EXPECT_TRUE(report["rates"]["disk"].is_null());
  const json& verdict = report["passes"][0]["verdict"];
  EXPECT_THAT(keys_of(verdict), UnorderedElementsAre("binding", "words", "bound_seconds", "efficiency",
                                                     "cached_bytes", "disk", "host_to_device"));
  EXPECT_TRUE(verdict["efficiency"].is_null()) << "no rate is known";
  for (const char* link : {"disk", "host_to_device"}) {
    EXPECT_THAT(keys_of(verdict[link]),
                UnorderedElementsAre("bytes", "busy_seconds", "bytes_per_second", "share"));
    EXPECT_TRUE(verdict[link]["share"].is_null());
  }
  EXPECT_THAT(keys_of(report["peak_bytes"]), UnorderedElementsAre("pinned", "page_cache", "gpu"));
  EXPECT_THAT(keys_of(report["page_cache"]),
              UnorderedElementsAre("kept_bytes", "locked_bytes", "lock_refusal", "registered_bytes",
                                   "registration_refusal", "lost_bytes"));
  EXPECT_EQ(report["page_cache"]["kept_bytes"], 0);
  EXPECT_EQ(report["verified_tensors"], 0);
  EXPECT_GT(report["first_layer_seconds"], 0);
}

TEST_F(CommandTest, RunTellsPlanPathReadyPassAndPeak) {
  const CommandResult result = run_command(
      {"run", path(), "--budget", kBudget, "--passes", "2", "--device", "cpu", "--backend", "posix"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* word :
       {"layers  5 of model.layers on cpu", "\npinned  ", "\npath    posix, ", "\nready   ", "\npass 1  ",
        "\npass 2  ", "\n        stalled ", "\npeak    gpu "}) {
    EXPECT_THAT(result.out, HasSubstr(word));
  }
}

TEST_F(CommandTest, RunKeepsPagesAndTellsHow) {
  const std::string budget = "gpu=4MiB,pinned=4MiB,page_cache=64MiB";
  const CommandResult result =
      run_command({"run", path(), "--budget", budget, "--passes", "2", "--device", "cpu", "--verify"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr(",\n        from the second one on\n"));
  EXPECT_THAT(result.out, HasSubstr("\nkept    "));
  EXPECT_LE(columns_of(result.out), 80u) << result.out;
  const CommandResult as_json =
      run_command({"run", path(), "--budget", budget, "--passes", "2", "--device", "cpu", "--json"});
  const json report = json::parse(as_json.out);
  const json& kept = report["page_cache"];
  EXPECT_GE(kept["kept_bytes"], kLayers * kMiB * 9 / 10) << "the rest is resident";
  EXPECT_EQ(kept["registered_bytes"], kept["kept_bytes"]) << "the CPU device reads all there is";
  EXPECT_EQ(kept["locked_bytes"] == kept["kept_bytes"], kept["lock_refusal"] == "");
  EXPECT_EQ(kept["lost_bytes"], 0);
  EXPECT_EQ(report["passes"][1]["bytes"]["disk"], 0);
  EXPECT_GT(report["passes"][1]["bytes"]["page_cache"], kMiB);
}

TEST_F(CommandTest, AFileCutUnderARunIsAnErrorThatNamesIt) {
  const TemporaryDirectory directory;
  write_synthetic_checkpoint(directory.path(), spec_of(1, 0));
  const std::string file = directory.path("model.safetensors");
  Command command({"run", directory.path(), "--budget", "gpu=4MiB,pinned=4MiB,page_cache=64MiB", "--passes",
                   "100000000", "--verify", "--device", "cpu"});
  ASSERT_TRUE(command.wait_for_line("pass 1"));
  std::filesystem::resize_file(file, 4096);
  const CommandResult result = command.finish();
  EXPECT_EQ(result.exit_code, 2);
  // Noticed before a pass, or by a signal within one.
  // A sanitizer may have more to say of the threads that such an end leaves.
  const std::string first_line = result.err.substr(0, result.err.find('\n'));
  EXPECT_THAT(first_line, testing::MatchesRegex(
                              "tierstream: [^\n]*/model.safetensors: the file was (cut|changed) while the "
                              "page-cache tier keeps pages of it.*"));
}

TEST_F(CommandTest, RunJudgesEachPassByTheRatesItIsGiven) {
  const std::vector<std::string> arguments = {"run",
                                              path(),
                                              "--budget",
                                              kBudget,
                                              "--passes",
                                              "2",
                                              "--device",
                                              "cpu",
                                              "--no-landing",
                                              "--io",
                                              "buffered",
                                              "--rates",
                                              "disk=1MB,host_to_device=500GB"};
  const CommandResult told = run_command(arguments);
  ASSERT_EQ(told.exit_code, 0) << told.err;
  EXPECT_THAT(told.out, HasSubstr(" of 0.00 GB/s ("));
  EXPECT_THAT(told.out, HasSubstr("\n        host to device "));
  EXPECT_THAT(told.out, HasSubstr("\n        efficiency "));
  EXPECT_THAT(told.out, HasSubstr("\nverdict "));
  const std::string passes = told.out.substr(told.out.find("\npass 1 "));
  EXPECT_LE(columns_of(passes), 80u) << passes;
  std::vector<std::string> with_json = arguments;
  with_json.push_back("--json");
  const CommandResult result = run_command(with_json);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_EQ(report["rates"]["disk"], 1e6);
  EXPECT_EQ(report["rates"]["host_to_device"], 500e9);
  std::uint64_t read_bytes = 0;
  for (const json& pass : report["passes"]) {
    const json& verdict = pass["verdict"];
    read_bytes += verdict["disk"]["bytes"].get<std::uint64_t>();
    EXPECT_GT(verdict["disk"]["share"], 1) << "no disk is that slow";
    EXPECT_GT(verdict["bound_seconds"], 0);
    EXPECT_GT(verdict["efficiency"], 1);
    EXPECT_GT(verdict["host_to_device"]["share"], 0);
    EXPECT_FALSE(verdict["words"].get<std::string>().empty());
  }
  EXPECT_GE(read_bytes, 5 * kMiB) << "more than the layers that can have been read before the first pass";
}

TEST_F(CommandTest, RunMeasuresTheLinksWhereItIsAskedTo) {
  const CommandResult result = run_command(
      {"run", path(), "--budget", kBudget, "--device", "cpu", "--io", "buffered", "--probe", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const json report = json::parse(result.out);
  EXPECT_GT(report["rates"]["host_to_device"], 1e6);
  if (!report["rates"]["disk"].is_null()) {  // else the temporary directory lies in memory
    EXPECT_GT(report["rates"]["disk"], 1e6);
    EXPECT_GT(report["passes"][0]["verdict"]["efficiency"], 0);
  }
}

TEST_F(CommandTest, RunWritesATraceAndAPicture) {
  const TemporaryDirectory directory;
  directory.write("t.json", bytes_of_text("what was there before, and is longer than nothing"));
  const CommandResult result =
      run_command({"run", path(), "--budget", kBudget, "--passes", "2", "--device", "cpu", "--trace",
                   directory.path("t.json"), "--timeline", directory.path("pass.svg")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, EndsWith("trace   " + directory.path("t.json") + "\npicture " +
                                   directory.path("pass.svg") + "\n"));
  std::map<std::string, std::uint64_t> events;
  const json trace = json::parse(std::ifstream(directory.path("t.json")));
  for (const json& event : trace["traceEvents"]) {
    if (event.contains("cat")) ++events[event["cat"]];
  }
  EXPECT_EQ(events["lease"], 2 * kLayers);
  EXPECT_EQ(events["pass"], 2u);
  EXPECT_GE(events["read"], 2 * (kLayers - 2)) << "two slots hold two of five layers";
  EXPECT_THAT(text_of(directory.path("pass.svg")), HasSubstr("Pass 2: "));
}

TEST_F(CommandTest, ATraceThatCannotBeWrittenIsRefusedBeforeTheRun) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("file", {});
  const std::string shard = path() + "/model-00001-of-00002.safetensors";
  const auto bytes_before = std::filesystem::file_size(shard);
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--trace", directory.path("missing/t.json")}, directory.path("missing/t.json: cannot create")},
      {{"--timeline", directory.path()}, directory.path() + ": cannot create"},
      {{"--timeline", file + "/pass.svg"}, file + "/pass.svg: cannot create"},
      {{"--trace", file, "--timeline", file}, "--trace and --timeline need a file each"},
      {{"--trace", shard}, shard + ": this file is read"},
  };
  for (const auto& [options, fragment] : cases) {
    SCOPED_TRACE(testing::PrintToString(options));
    std::vector<std::string> arguments = {"run", path(), "--budget", kBudget, "--device", "cpu"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    expect_refusal(run_command(arguments), fragment);
  }
  EXPECT_EQ(std::filesystem::file_size(shard), bytes_before);
}

TEST_F(CommandTest, AFullDiskCostsTheTraceAndNothingElse) {
  const TemporaryDirectory directory;
  const CommandResult result =
      run_command({"run", path(), "--budget", kBudget, "--device", "cpu", "--json", "--trace", "/dev/full",
                   "--timeline", directory.path("pass.svg")});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err, "tierstream: /dev/full: cannot write the file: No space left on device\n");
  EXPECT_EQ(json::parse(result.out)["passes"].size(), 1u);
  EXPECT_THAT(text_of(directory.path("pass.svg")), EndsWith("</svg>\n"));
}

TEST_F(CommandTest, ARunThatFailsLeavesNoEmptyTrace) {
  const TemporaryDirectory directory;
  expect_refusal(run_command({"run", path(), "--budget", "gpu=1MiB,pinned=4MiB", "--device", "cpu", "--trace",
                              directory.path("t.json")}),
                 "gpu");
  EXPECT_FALSE(std::filesystem::exists(directory.path("t.json")));
}

TEST_F(CommandTest, TheWayThatIsAskedForIsTaken) {
  const auto path_of = [](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"run", path(), "--budget", kBudget, "--device", "cpu", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CommandResult result = run_command(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out)["path"];
  };
  const json posix = path_of({"--backend", "posix", "--io", "buffered"});
  EXPECT_EQ(posix["backend"], "posix");
  EXPECT_EQ(posix["direct"], false);
  EXPECT_EQ(posix["cached_reads"], false);
  const bool has_direct = path_of({})["direct"];
  EXPECT_EQ(path_of({})["cached_reads"], has_direct);  // the file is ours: the kernel tells what is cached
  for (const char* option : {"--io", "--require"}) {
    if (has_direct) {
      EXPECT_EQ(path_of({option, "direct"})["direct"], true);
      EXPECT_EQ(path_of({option, "direct"})["cached_reads"], false);
    } else {
      expect_refusal(run_command({"run", path(), "--budget", kBudget, option, "direct"}),
                     "direct I/O is required");
    }
  }
}

TEST_F(CommandTest, InspectListsShardsTensorsAndLayersIn80Columns) {
  const CommandResult result = run_command({"inspect", path()});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("2 shards of " + path() + "\n"));
  EXPECT_THAT(result.out, HasSubstr("\npath    "));
  EXPECT_THAT(result.out, HasSubstr("48 tensors  BF16"));
  EXPECT_THAT(result.out, HasSubstr("layers model.layers\n"));
  EXPECT_THAT(result.out, HasSubstr("5 layers of "));
  EXPECT_THAT(result.out, HasSubstr("3 tensors  outside"));
  for (const std::string& line : lines_of(result.out)) {
    if (line.starts_with("        no ")) continue;  // a fallback's reason may be long
    EXPECT_LE(line.size(), 80u) << line;
  }
}

TEST_F(CommandTest, InspectPrintsJson) {
  const CommandResult result = run_command({"inspect", path(), "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json summary = json::parse(result.out);
  EXPECT_EQ(summary["tensors"], kLayers * kTensorsPerLayer + kTensorsOutside);
  EXPECT_EQ(summary["shards"].size(), 2u);
  EXPECT_FALSE(summary["path"]["backend"].get<std::string>().empty());
  EXPECT_TRUE(summary["path"]["direct"].is_boolean());
  EXPECT_TRUE(summary["path"]["fallbacks"].is_array());
  EXPECT_EQ(summary["layer_lists"][0]["layer_bytes"].size(), kLayers);
  EXPECT_EQ(summary["layer_lists"][0]["outside"]["tensors"], kTensorsOutside);
}

TEST_F(CommandTest, InspectCollapsesEqualLayersAndEscapesNames) {
  const TemporaryDirectory directory;
  const std::vector<std::int64_t> small = {16};
  const std::vector<std::int64_t> large = {64};
  directory.write("x.safetensors", golden_safetensors({{"a\x1b[31m.0.w", DType::kF32, small},
                                                       {"a\x1b[31m.1.w", DType::kF32, small},
                                                       {"a\x1b[31m.2.w", DType::kF32, large}}));
  const CommandResult result = run_command({"inspect", directory.path("x.safetensors")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("layers a\\x1b[31m\n"));
  EXPECT_THAT(result.out, HasSubstr("2 layers of 64 B, 1 of 256 B\n"));
  EXPECT_THAT(result.out, Not(HasSubstr("\x1b")));
}

TEST_F(CommandTest, HelpAndVersionAreThereOnEveryLevelIn80Columns) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"--help"}, {"--version"}, {"synth", "--help"}, {"inspect", "--help"}, {"run", "--help"}}) {
    const CommandResult result = run_command(arguments);
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_NE(result.out, "");
    EXPECT_LE(columns_of(result.out), 80u) << result.out;
  }
}

TEST_F(CommandTest, VerifyNamesFileTensorAndOffsetOfTheFirstWrongByte) {
  const TemporaryDirectory directory;
  write_synthetic_checkpoint(directory.path(), spec_of(1, 7));
  const std::string file = directory.path("model.safetensors");
  constexpr const char* kTensor = "model.layers.3.mlp.up_proj.weight";
  const std::uint64_t offset = Checkpoint::open(file).find(kTensor)->offset + 12345;
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(static_cast<std::streamoff>(offset));
  const char wrong = static_cast<char>(stream.get() ^ 0x10);
  stream.seekp(static_cast<std::streamoff>(offset));
  stream.put(wrong);
  stream.close();
  const CommandResult result =
      run_command({"run", directory.path(), "--budget", kBudget, "--verify", "--json", "--device", "cpu"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, "tierstream: " + file + ": tensor \"" + kTensor +
                            "\": the contents differ from what `tierstream synth` wrote at byte " +
                            std::to_string(offset) + "\n");
}

TEST_F(CommandTest, CtrlCEndsALongRunAtOnce) {
  for (const int signal : {SIGINT, SIGTERM}) {
    Command command(
        {"run", path(), "--budget", kBudget, "--passes", "100000000", "--verify", "--device", "cpu"});
    ASSERT_TRUE(command.wait_for_line("ready"));
    command.send(signal);
    const CommandResult result = command.finish();
    EXPECT_EQ(result.exit_code, 130);
    EXPECT_EQ(result.err, "tierstream: interrupted\n");
  }
}

TEST_F(CommandTest, ARunThatIsInterruptedWritesItsTrace) {
  const TemporaryDirectory directory;
  const std::string trace = directory.path("t.json");
  Command command({"run", path(), "--budget", kBudget, "--passes", "100000000", "--device", "cpu", "--trace",
                   trace, "--timeline", directory.path("pass.svg")});
  ASSERT_TRUE(command.wait_for_line("pass 1"));
  command.send(SIGINT);
  const CommandResult result = command.finish();
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(result.err, "tierstream: interrupted\n");
  EXPECT_THAT(result.out, EndsWith("trace   " + trace + "\npicture " + directory.path("pass.svg") + "\n"));
  EXPECT_GT(json::parse(std::ifstream(trace))["traceEvents"].size(), kLayers);
  EXPECT_THAT(text_of(directory.path("pass.svg")), HasSubstr("Pass "));
}

TEST_F(CommandTest, CtrlCEndsARunWhoseLayersAreAllThere) {
  Command command(
      {"run", path(), "--budget", "gpu=1GiB,pinned=64MiB", "--passes", "100000000", "--device", "cpu"});
  ASSERT_TRUE(command.wait_for_line("ready"));
  command.send(SIGINT);
  EXPECT_EQ(command.finish().exit_code, 130);
}

TEST_F(CommandTest, RunTakesByItselfWhatTheMachineHas) {
  const CommandResult result = run_command({"run", path(), "--passes", "2", "--device", "cpu", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json report = json::parse(result.out);
  EXPECT_GT(report["budget"]["gpu"], std::uint64_t{64} << 20);
  EXPECT_EQ(report["passes"][1]["bytes"]["disk"], 0u) << "the model is small: all of it stays";
}

TEST_F(CommandTest, AFullOutputIsAnError) {
  for (const std::string& command : {" inspect " + path(), " run " + path() + " --budget " + kBudget}) {
    const std::string line = TIERSTREAM_COMMAND + command + " >/dev/full 2>/dev/null";
    EXPECT_EQ(WEXITSTATUS(std::system(line.c_str())), 2) << command;
  }
}

TEST_F(CommandTest, WrongUseIsRefusedInOneLine) {
  const std::string p = path();
  const struct {
    std::vector<std::string> arguments;
    std::string fragment;
  } cases[] = {
      {{}, "a command is missing; the commands are synth, inspect, plan, run, probe; see tierstream --help"},
      {{"stream"}, "there is no command \"stream\"; the commands are synth, inspect, plan, run, probe; see "},
      {{"--stream"}, "there is no option \"--stream\""},
      {{"run"}, "see tierstream run --help"},
      {{"run", p, "--budget", kBudget, "--pases", "2"}, "--pases"},
      {{"run", p, "--budget", kBudget, "--passes", "0"},
       "--passes: 0 is not a whole number from 1 to 4294967295"},
      {{"run", p, "--budget", kBudget, "--passes", "-1"}, "--passes: -1 is not a whole number from 1 to "},
      {{"run", p, "--budget", kBudget, "--passes", "1.5"}, "--passes: 1.5 is not a whole number from 1 to "},
      {{"run", p, "--budget", kBudget, "--passes", "many\nmore"},
       "--passes: \"many\\x0amore\" is not a number"},
      {{"run", p, "--budget", kBudget, "--io", "fast"}, "--io"},
      {{"run", p, "--budget", kBudget, "--backend", "aio"}, "--backend"},
      {{"run", p, "--budget", kBudget, "--read-threads", "0"},
       "--read-threads: 0 is not a whole number from 1 to 1024"},
      {{"run", p, "--budget", kBudget, "--read-threads", "few"}, "--read-threads: \"few\" is not a number"},
      {{"run", "posix://" + p, "--budget", kBudget, "--backend", "io_uring"}, "--backend"},
      {{"run", p, "--budget", kBudget, "--require", "luck"}, "--require"},
      {{"run", p, "--budget", kBudget, "--device", "tpu"}, "\"tpu\""},
      {{"run", p, "--budget", kBudget, "--device", "cuda:x"}, "\"cuda:x\""},
      {{"run", p, "--budget", kBudget, "--device", "cuda:4000"}, "cuda"},
      {{"run", p, "--budget", kBudget, "--layers", "model.blocks"}, "model.blocks"},
      {{"run", p, "--budget", kBudget, "--io", "buffered", "--require", "direct"}, "direct"},
      {{"run", p, "--budget", kBudget, "--backend", "posix", "--require", "io_uring"}, "io_uring"},
      {{"run", p, "--rates", "disk"}, "--rates \"disk\": rates are written disk=1.7GB,"},
      {{"run", p, "--rates", "tape=1GB"},
       "--rates \"tape=1GB\": unknown link \"tape\"; the links are disk, host_to_device"},
      {{"run", p, "--rates", "disk=1GB,disk=2GB"}, "named twice"},
      {{"run", p, "--rates", "disk=0"}, "more than nothing"},
      {{"run", p, "--rates", "disk=fast"}, "fast"},
      {{"run", p, "--rates", "disk=1GB", "--probe"}, "--probe"},
      {{"run", p, "--budget", ""}, "budget"},
      {{"run", p, "--budget", "vram=1GiB"}, "vram"},
      {{"run", p, "--budget", "gpu=1XB"}, "1XB"},
      {{"run", p, "--budget", "gpu=-1"}, "-1"},
      {{"run", p, "--budget", "gpu=99999999999TiB"}, "99999999999TiB"},
      {{"run", p, "--budget", "gpu=1GiB,gpu=1GiB"}, "gpu"},
      {{"run", p, "--budget", kBudget, "--slots", "0"}, "--slots"},
      {{"run", p, "--budget", "gpu=1MiB,pinned=4MiB"}, "gpu"},
      {{"run", p, "--budget", "gpu=4MiB,pinned=4KiB"}, "pinned"},
      {{"synth", p + "/new", "--layers", "1"}, "--layer-bytes"},
      {{"synth", p + "/new", "--layers", "0", "--layer-bytes", "1MiB"}, "layer"},
      {{"synth", p + "/new", "--layers", "1", "--layer-bytes", "1"}, "1 bytes per BF16 layer: 21120 to"},
      {{"synth", p + "/new", "--layers", "1", "--layer-bytes", "1 mile"}, "--layer-bytes"},
      {{"synth", p + "/new", "--layers", "1", "--layer-bytes", "1MiB", "--dtype", "bf17"}, "bf17"},
      {{"synth", p + "/new", "--layers", "1", "--layer-bytes", "1MiB", "--shards", "99"}, "99 shards"},
      {{"synth", p + "/new", "--layers", "1", "--layer-bytes", "1MiB", "--shards", "0"}, "shard"},
      {{"synth", p + "/new", "--layers", "60000", "--layer-bytes", "2TiB"}, "space"},
      {{"synth", p, "--layers", "1", "--layer-bytes", "1MiB"},
       "there is a checkpoint already; --force replaces it"},
      {{"synth", p + "/model.safetensors.index.json", "--layers", "1", "--layer-bytes", "1MiB"},
       "index.json"},
  };
  for (const auto& [arguments, fragment] : cases) {
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_refusal(run_command(arguments), fragment);
  }
  EXPECT_FALSE(std::filesystem::exists(p + "/new/model.safetensors"));
}

TEST_F(CommandTest, ADeviceThatIsNotThereIsRefusedWithTheReason) {
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  const CommandResult result = run_command({"run", path(), "--budget", kBudget, "--device", "cuda"});
  unsetenv("CUDA_VISIBLE_DEVICES");
  expect_refusal(result, "");
  EXPECT_THAT(result.err,
              AnyOf(MatchesRegex("tierstream: no CUDA device can be used: .* \\(cudaError.*\\); --device cpu "
                                 "works without one\n"),
                    HasSubstr("this tierstream was built without CUDA; --device cpu works without one")));
}

TEST_F(CommandTest, WrongFilesAreRefusedInOneLine) {
  const TemporaryDirectory directory;
  for (const char* name : {"empty", "lost", "away"}) std::filesystem::create_directory(directory.path(name));
  directory.write("text.safetensors",
                  bytes_of_text("this is no header, and a good deal longer than eight bytes"));
  directory.write("short.safetensors", bytes_of_text("abc"));
  directory.write("nolist.safetensors", golden_safetensors({{"weight"}}));
  directory.write("lost/model.safetensors.index.json",
                  bytes_of_text(R"({"weight_map": {"a.0.w": "gone.safetensors"}})"));
  directory.write("away/model.safetensors.index.json",
                  bytes_of_text(R"({"weight_map": {"a.0.w": "../short.safetensors"}})"));
  const std::vector<GoldenTensor> layers = {{"a.0.w"}, {"a.1.w"}};
  std::vector<std::byte> cut = golden_safetensors(layers);
  cut.pop_back();
  directory.write("cut.safetensors", cut);
  for (const std::string name :
       {"missing", "empty", "text.safetensors", "short.safetensors", "cut.safetensors", "lost", "away"}) {
    SCOPED_TRACE(name);
    expect_refusal(run_command({"inspect", directory.path(name)}), directory.path(name));
    expect_refusal(run_command({"run", directory.path(name), "--budget", kBudget}), directory.path(name));
  }
  expect_refusal(run_command({"run", directory.path("nolist.safetensors"), "--budget", kBudget}),
                 "nolist.safetensors");
  directory.write("real.safetensors", golden_safetensors(layers));
  expect_refusal(run_command({"run", directory.path("real.safetensors"), "--budget", kBudget, "--verify"}),
                 "--verify");
  expect_refusal(run_command({"inspect", "s3://bucket/model"}), "s3");
}

}  // namespace
}  // namespace tierstream
