#include <gmock/gmock.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "command.h"
#include "support/byte_units.h"
#include "support/checkpoint_files.h"
#include "tools/memory_cgroup.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kSlotsMiB = 176;  // two slots of 64 MiB and the tensors outside the layers
constexpr std::uint64_t kRingMiB = 64;
constexpr std::uint64_t kCgroupMiB = 384;
constexpr std::uint32_t kLayers = 32;

class MemoryLimit : public testing::TestWithParam<bool> {};

TEST_P(MemoryLimit, A2GiBCheckpointStreamsWithinItsBudgets) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory is many times what is measured here";
#endif
  const bool landing = GetParam();
  const TemporaryDirectory directory;
  const SyntheticModel model = write_synthetic_checkpoint(
      directory.path(),
      {.layers = kLayers, .layer_bytes = 64 * kMiB, .shards = 2, .skew = landing ? 0u : 7u});
  ASSERT_GE(model.total_bytes, 2048 * kMiB);

  const MemoryCgroup cgroup(kCgroupMiB * kMiB);
  if (!cgroup.refusal().empty()) GTEST_SKIP() << cgroup.refusal();
  std::vector<std::string> arguments = {
      "run",      directory.path(),
      "--budget", "gpu=" + std::to_string(kSlotsMiB) + "MiB,pinned=" + std::to_string(kRingMiB) + "MiB",
      "--verify", "--json",
      "--device", "cpu"};
  if (!landing) arguments.push_back("--no-landing");
  const CommandResult result = Command(arguments, cgroup.path()).finish();

  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json report = nlohmann::json::parse(result.out);
  EXPECT_EQ(report["verified_tensors"], model.tensors.size());
  EXPECT_EQ(cgroup.times_limit_was_hit(), 0u);
  const std::uint64_t peak_bytes = cgroup.peak_bytes();
  const std::uint64_t held_bytes =
      report["peak_bytes"]["gpu"].get<std::uint64_t>() + report["peak_bytes"]["pinned"].get<std::uint64_t>();
  EXPECT_LE(held_bytes, (kSlotsMiB + kRingMiB) * kMiB);
  EXPECT_LE(peak_bytes, held_bytes + kOverheadMiB * kMiB);
  EXPECT_GE(peak_bytes, 2 * model.layer_bytes) << "the cgroup does not see what the command uses";
  std::cout << "peak " << peak_bytes / kMiB << " MiB, of which in the tiers " << held_bytes / kMiB
            << " MiB\n";
}

INSTANTIATE_TEST_SUITE_P(Tools, MemoryLimit, testing::Bool(),
                         [](const auto& test) { return test.param ? "ReadsLand" : "ThroughTheRing"; });

}  // namespace
}  // namespace tierstream
