#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/cpu_device.h>
#include <tierstream/tiers/memory_room.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "support/fake_device.h"
#include "support/test_files.h"

namespace tierstream {
namespace {

using ::testing::EndsWith;
using ::testing::StartsWith;

/// A root directory with the files that the kernel would show.
class FakeRoot {
 public:
  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = directory_.path(path);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void set_available_kib(std::uint64_t kib) const {
    write("proc/meminfo", "MemTotal:  9999999 kB\nMemAvailable:   " + std::to_string(kib) + " kB\n");
  }
  std::string path() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
};

TEST(MemoryRoom, IsWhatTheMachineHasAvailableWhereNothingElseLimits) {
  const FakeRoot root;
  root.set_available_kib(1000);
  root.write("proc/self/cgroup", "0::/\n");
  const MemoryRoom room = host_memory_room(root.path());
  EXPECT_EQ(room.bytes, 1'024'000u);
  EXPECT_EQ(room.limited_by, "MemAvailable");
}

TEST(MemoryRoom, IsLimitedByTheLeastOfTheChainOfVersion2) {
  const FakeRoot root;
  root.set_available_kib(1 << 20);
  root.write("proc/self/cgroup", "0::/outer/inner\n");
  root.write("sys/fs/cgroup/outer/memory.max", "500000\n");
  root.write("sys/fs/cgroup/outer/memory.current", "200000\n");
  root.write("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 30000\nactive_file 20000\n");
  root.write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
  root.write("sys/fs/cgroup/outer/inner/memory.current", "200000\n");
  const MemoryRoom room = host_memory_room(root.path());
  EXPECT_EQ(room.bytes, 350'000u);
  EXPECT_THAT(room.limited_by, StartsWith("memory.max of "));
  EXPECT_THAT(room.limited_by, EndsWith("/outer"));
}

TEST(MemoryRoom, IsLimitedByTheLeastOfTheChainOfVersion1) {
  const FakeRoot root;
  root.set_available_kib(1 << 20);
  root.write("proc/self/cgroup", "9:name=systemd:/\n4:cpuset,memory:/a/b\n0::/\n");
  root.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  root.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
  root.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "700000\n");
  root.write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "100000\n");
  root.write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "600000\n");
  root.write("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "100000\n");
  root.write("sys/fs/cgroup/memory/a/b/memory.stat", "total_inactive_file 40000\ntotal_active_file 10000\n");
  EXPECT_EQ(host_memory_rooms(root.path()).size(), 3u);
  const MemoryRoom room = host_memory_room(root.path());
  EXPECT_EQ(room.bytes, 550'000u);
  EXPECT_THAT(room.limited_by, EndsWith("/a/b"));
}

TEST(MemoryRoom, ACgroupThatIsFullLeavesNothing) {
  const FakeRoot root;
  root.write("proc/self/cgroup", "0::/full\n");
  root.write("sys/fs/cgroup/full/memory.max", "1000\n");
  root.write("sys/fs/cgroup/full/memory.current", "5000\n");
  EXPECT_EQ(host_memory_room(root.path()).bytes, 0u);
}

TEST(MemoryRoom, WithoutAnyFileNothingIsKnown) {
  const FakeRoot root;
  EXPECT_EQ(host_memory_room(root.path()).bytes, std::numeric_limits<std::uint64_t>::max());
}

TEST(MemoryRoom, ThisMachineHasSome) {
  const MemoryRoom room = host_memory_room();
  EXPECT_GT(room.bytes, 0u);
  EXPECT_LT(room.bytes, std::uint64_t{1} << 60) << room.limited_by;
}

TEST(BudgetDetect, SharesTheHostsMemoryBetweenBothTiersOfTheCpu) {
  const std::shared_ptr<Device> device = make_cpu_device();
  const Budget budget = Budget::detect(*device);
  EXPECT_GT(budget.pinned, 0u);
  EXPECT_GT(budget.gpu, budget.pinned);
  EXPECT_LT(budget.gpu + budget.pinned, host_memory_room().bytes + (1u << 30));
}

TEST(BudgetDetect, LeavesTheStatedReserveOfADevice) {
  testing::FakeDevice device;
  device.set_room(std::uint64_t{8} << 30);
  EXPECT_EQ(Budget::detect(device).gpu, std::uint64_t{7} << 30);
  device.set_room(std::uint64_t{1} << 30);
  EXPECT_EQ(Budget::detect(device).gpu, std::uint64_t{768} << 20);
}

}  // namespace
}  // namespace tierstream
