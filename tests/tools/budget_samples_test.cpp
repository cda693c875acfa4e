#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "budget_state.h"
#include "command.h"
#include "support/byte_units.h"
#include "support/checkpoint_files.h"
#include "tools/memory_cgroup.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kGpuMiB = 128;  // slots of 16 MiB, residents, and the tensors outside the layers
constexpr std::uint64_t kPinnedMiB = 32;
constexpr std::uint64_t kPageCacheMiB = 192;
constexpr std::uint64_t kLimitMiB = 1024;  // far above: nothing but the program keeps within the budgets
constexpr std::chrono::milliseconds kInterval{10};
/// Each processor keeps a batch of the last pages that were unlocked (31, by Linux' PAGEVEC_SIZE).
constexpr std::uint64_t kUnlockedLater = 31 * 4096;

/// Of a process's /proc/PID/status, e.g. "VmLck"; 0 once it has ended.
std::uint64_t status_bytes(pid_t process, const std::string& name) {
  std::ifstream status("/proc/" + std::to_string(process) + "/status");
  for (std::string key; status >> key;) {
    std::uint64_t kib = 0;
    if (key == name + ":" && status >> kib) return kib * 1024;
  }
  return 0;
}

/// The most of what was seen from outside, at any one time.
struct Samples {
  std::uint64_t charged_bytes = 0;  ///< memory of the process, and page cache
  std::uint64_t own_bytes = 0;      ///< of which no file's
  std::uint64_t locked_bytes = 0;
  std::size_t count = 0;

  void take(const MemoryCgroup& cgroup, pid_t process) {
    charged_bytes = std::max(charged_bytes, cgroup.used_bytes());
    own_bytes = std::max(own_bytes, status_bytes(process, "RssAnon"));
    locked_bytes = std::max(locked_bytes, status_bytes(process, "VmLck"));
    ++count;
  }
};

/// A checkpoint whose tensors can land in slots (true) or cannot, and a cgroup to read it in.
class BudgetSamples : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer's own memory is many times what is measured here";
#endif
    if (!cgroup_.refusal().empty()) GTEST_SKIP() << cgroup_.refusal();
  }
  void write_checkpoint(std::uint32_t layers) const {
    write_synthetic_checkpoint(
        directory_.path(),
        {.layers = layers, .layer_bytes = 16 * kMiB, .shards = 2, .skew = landing_ ? 0u : 7u});
  }

  const bool landing_ = GetParam();
  const TemporaryDirectory directory_;
  const MemoryCgroup cgroup_{kLimitMiB * kMiB};
};

TEST_P(BudgetSamples, ShowNoByteBeyondTheBudgetsAndTheOverhead) {
  write_checkpoint(32);

  std::vector<std::string> arguments = {"run",
                                        directory_.path(),
                                        "--budget",
                                        "gpu=" + std::to_string(kGpuMiB) +
                                            "MiB,pinned=" + std::to_string(kPinnedMiB) +
                                            "MiB,page_cache=" + std::to_string(kPageCacheMiB) + "MiB",
                                        "--passes",
                                        "4",
                                        "--device",
                                        "cpu",
                                        "--json"};
  if (!landing_) arguments.push_back("--no-landing");
  Command command(arguments, cgroup_.path());
  Samples most;
  do {
    most.take(cgroup_, command.process());
  } while (!command.ends_within(kInterval));
  const CommandResult result = command.finish();

  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json report = nlohmann::json::parse(result.out);
  const auto held = [&](const char* tier) { return report["peak_bytes"][tier].get<std::uint64_t>(); };
  std::cout << most.count << " samples: charged " << most.charged_bytes / kMiB << " MiB, of which its own "
            << most.own_bytes / kMiB << " MiB; locked " << most.locked_bytes / kMiB << " MiB; in the tiers "
            << (held("gpu") + held("pinned") + held("page_cache")) / kMiB << " MiB\n";

  EXPECT_LE(most.charged_bytes, (kGpuMiB + kPinnedMiB + kPageCacheMiB + kOverheadMiB) * kMiB);
  EXPECT_LE(cgroup_.peak_bytes(), (kGpuMiB + kPinnedMiB + kPageCacheMiB + kOverheadMiB) * kMiB)
      << "between two samples";
  EXPECT_LE(most.own_bytes, (kGpuMiB + kPinnedMiB + kOverheadMiB) * kMiB);
  EXPECT_LE(most.locked_bytes, (kPinnedMiB + kPageCacheMiB) * kMiB);
  EXPECT_LE(cgroup_.unevictable_bytes(), kUnlockedLater * std::thread::hardware_concurrency())
      << "still locked after the end";
  // That the samples see what they are to see.
  EXPECT_GE(most.count, 1u);
  EXPECT_GE(cgroup_.peak_bytes(), held("gpu"));
  EXPECT_GE(held("page_cache"), kPageCacheMiB * kMiB * 9 / 10);
  if (most.locked_bytes == 0) std::cout << "mlock was refused: locked bytes are not tested\n";
}

/// The most that was seen beyond what was allowed at the time.
struct Excess {
  std::uint64_t charged_bytes = 0;
  std::uint64_t own_bytes = 0;
  std::uint64_t locked_bytes = 0;
};

TEST_P(BudgetSamples, ShowNoByteBeyondBudgetsThatChange) {
  write_checkpoint(16);
  const TemporaryDirectory elsewhere;
  const std::string state_file = elsewhere.path() + "/state";
  BudgetState state(state_file);

  Command command({directory_.path(), state_file, landing_ ? "landing" : "ring"}, cgroup_.path(),
                  BUDGET_CHANGES);
  Excess most;
  std::set<std::uint64_t> budgets;
  std::uint64_t charged_bytes = 0;
  const auto beyond = [](std::uint64_t bytes, std::uint64_t allowed) {
    return bytes - std::min(bytes, allowed);
  };
  do {
    const std::uint64_t changes = state.changes();
    const Budget allowed = state.allowed();
    Samples now;
    now.take(cgroup_, command.process());
    if (changes % 2 == 0 && changes == state.changes()) {  // else it changes just now
      const std::uint64_t own = allowed.gpu + allowed.pinned + kOverheadMiB * kMiB;
      most.charged_bytes = std::max(most.charged_bytes, beyond(now.charged_bytes, own + allowed.page_cache));
      most.own_bytes = std::max(most.own_bytes, beyond(now.own_bytes, own));
      most.locked_bytes =
          std::max(most.locked_bytes, beyond(now.locked_bytes, allowed.pinned + allowed.page_cache));
      charged_bytes = std::max(charged_bytes, now.charged_bytes);
      budgets.insert(allowed.gpu + allowed.pinned + allowed.page_cache);
      state.count_sample();
    }
  } while (!command.ends_within(kInterval));
  const CommandResult result = command.finish();

  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::cout << state.samples() << " samples of " << budgets.size() << " budgets; charged "
            << charged_bytes / kMiB << " MiB at most\n";
  EXPECT_EQ(most.charged_bytes, 0u);
  EXPECT_EQ(most.own_bytes, 0u);
  EXPECT_EQ(most.locked_bytes, 0u);
  // That the samples see what they are to see.
  EXPECT_GE(budgets.size(), 8u);
  EXPECT_GE(charged_bytes, 200 * kMiB);
}

INSTANTIATE_TEST_SUITE_P(Tools, BudgetSamples, testing::Bool(),
                         [](const auto& test) { return test.param ? "ReadsLand" : "ThroughTheRing"; });

}  // namespace
}  // namespace tierstream
