#include <gmock/gmock.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "command.h"
#include "support/test_files.h"

namespace tierstream {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;
using testing::UnorderedElementsAre;

class ProbeCommand : public testing::Test {
 protected:
  /// Of a small file in a directory of its own, on the CPU device.
  std::vector<std::string> arguments(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> all = {"probe",    "--dir", directory_.path(), "--bytes", "16MiB",
                                    "--device", "cpu",   "--rounds",        "1"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  void expect_nothing_left() const {
    EXPECT_TRUE(std::filesystem::is_empty(directory_.path())) << "the file was not removed";
  }

  TemporaryDirectory directory_;
};

TEST_F(ProbeCommand, PrintsExactlyTheDocumentedKeysAndPlausibleRates) {
  const CommandResult result = run_command(arguments({"--json"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const json report = json::parse(result.out);
  EXPECT_THAT(keys_of(report),
              UnorderedElementsAre("directory", "file_bytes", "device", "links", "rates", "direct_sweep",
                                   "host_memory", "device_memory", "locked_memory", "path"));
  EXPECT_EQ(report["directory"], directory_.path());
  EXPECT_EQ(report["file_bytes"], 16u << 20);
  EXPECT_EQ(report["device"], "cpu");
  EXPECT_THAT(keys_of(report["links"]),
              UnorderedElementsAre("disk_direct", "disk_buffered", "page_cache_one_thread", "page_cache",
                                   "host_to_device", "device_to_host", "registration"));
  for (const auto& [name, link] : report["links"].items()) {
    SCOPED_TRACE(name);
    if (link["bytes_per_second"].is_null()) {
      EXPECT_THAT(keys_of(link), UnorderedElementsAre("bytes_per_second", "refusal"));
      EXPECT_NE(link["refusal"], "");
      continue;
    }
    EXPECT_THAT(keys_of(link),
                UnorderedElementsAre("bytes_per_second", "low_quartile", "high_quartile", "how"));
    EXPECT_GT(link["low_quartile"], 1e6) << "a megabyte a second";
    EXPECT_LE(link["low_quartile"], link["bytes_per_second"]);
    EXPECT_LE(link["bytes_per_second"], link["high_quartile"]);
    EXPECT_LT(link["high_quartile"], 1e13) << "ten thousand gigabytes a second";
  }
  EXPECT_TRUE(report["links"]["registration"]["bytes_per_second"].is_null());
  EXPECT_THAT(keys_of(report["rates"]), UnorderedElementsAre("disk", "page_cache", "host_to_device"));
  EXPECT_EQ(report["rates"]["page_cache"], report["links"]["page_cache"]["bytes_per_second"]);
  EXPECT_GT(report["rates"]["host_to_device"], 0);
  EXPECT_GT(report["host_memory"][0]["bytes"], 0);
  EXPECT_THAT(keys_of(report["device_memory"]), UnorderedElementsAre("bytes", "limited_by"));
  EXPECT_THAT(keys_of(report["locked_memory"]), UnorderedElementsAre("bytes", "lifted"));
  EXPECT_THAT(keys_of(report["path"]),
              UnorderedElementsAre("backend", "direct", "cached_reads", "files_registered",
                                   "buffers_registered", "fallbacks"));
  expect_nothing_left();
}

TEST_F(ProbeCommand, PrintsATableOf80Columns) {
  const CommandResult result = run_command(arguments());
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("file    16.0 MiB in " + directory_.path() + ", removed at the end\n"));
  for (const char* word : {"\nlink ", "\ndisk, direct ", "\ndisk, buffered, cold ", "\npage cache, 1 thread ",
                           "\npage cache, threads ", "\nhost to device ", "\ndevice to host ",
                           "\nregistration          not measured: the cpu device needs none\n",
                           "\ndevice  cpu\n", "\nhost    ", "\nlocked  ", "\npath    "}) {
    EXPECT_THAT(result.out, HasSubstr(word));
  }
  for (const std::string& line : lines_of(result.out.substr(result.out.find("\nlink ")))) {
    const bool has_reason = line.find("not measured: ") != std::string::npos || line.starts_with("        ");
    if (has_reason) continue;
    EXPECT_LE(line.size(), 80u) << line;
  }
  expect_nothing_left();
}

TEST_F(ProbeCommand, HasHelpIn80Columns) {
  const CommandResult result = run_command({"probe", "--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("--rounds"));
  EXPECT_LE(columns_of(result.out), 80u) << result.out;
}

TEST_F(ProbeCommand, CtrlCRemovesTheFile) {
  Command command({"probe", "--dir", directory_.path(), "--bytes", "256MiB", "--device", "cpu"});
  ASSERT_TRUE(command.wait_for_line("file"));
  EXPECT_FALSE(std::filesystem::is_empty(directory_.path()));
  command.send(SIGINT);
  const CommandResult result = command.finish();
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(result.err, "tierstream: interrupted\n");
  expect_nothing_left();
}

TEST_F(ProbeCommand, WrongUseIsRefusedInOneLineAndLeavesNothing) {
  const std::string path = directory_.path();
  const struct {
    std::vector<std::string> arguments;
    std::string fragment;
  } cases[] = {
      {{"probe", "--dir", path, "--bytes", "100000TiB"}, "cannot allocate the file"},
      {{"probe", "--dir", path, "--bytes", "1MiB"}, "--bytes 1MiB: "},
      {{"probe", "--dir", path, "--bytes", "1 mile"}, "1 mile"},
      {{"probe", "--dir", path, "--rounds", "0"}, "--rounds"},
      {{"probe", "--dir", path, "--device", "tpu"}, "\"tpu\""},
      {{"probe", "--dir", path + "/missing"}, path + "/missing"},
      {{"probe", "--dir", "/proc/self"}, "/proc/self: cannot make a file here"},
      {{"probe", path}, "see tierstream probe --help"},
  };
  for (const auto& [arguments, fragment] : cases) {
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_refusal(run_command(arguments), fragment);
  }
  expect_nothing_left();
}

}  // namespace
}  // namespace tierstream
