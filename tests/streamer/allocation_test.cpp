// A steady pass allocates nothing, on any thread.

#include <gtest/gtest.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>

#include "small_model.h"
#include "support/allocations.h"
#include "support/test_files.h"

namespace tierstream {
namespace {

class AllocationTest : public ::testing::TestWithParam<bool> {
 protected:
  /// Allocations during passes 3 to 5, from the beginning of each to its end.
  static std::uint64_t in_steady_passes(Streamer& streamer) {
    std::uint64_t sum = 0;
    for (int pass = 0; pass < 5; ++pass) {
      const std::uint64_t before = allocations_so_far();
      for (Lease layer : streamer.pass()) EXPECT_GT(layer.size(), 0u);
      if (pass >= 2) sum += allocations_so_far() - before;
    }
    return sum;
  }
};

INSTANTIATE_TEST_SUITE_P(, AllocationTest, ::testing::Bool(), name_of_mode);

TEST_P(AllocationTest, TheCounterCounts) {
  const std::uint64_t before = allocations_so_far();
  ::operator delete(::operator new(1));  // called by name, so that the compiler leaves the pair in
  EXPECT_GT(allocations_so_far(), before);
}

TEST_P(AllocationTest, ASteadyPassFromMemoryAllocatesNothing) {
  const SmallModel model(6, 64 * 700);
  Streamer streamer(model.table,
                    {.device = make_cpu_device({.reads_land = GetParam()}), .budget = model.budget(2)});
  EXPECT_EQ(in_steady_passes(streamer), 0u);
}

TEST_P(AllocationTest, ASteadyPassFromFilesAllocatesNothing) {
  SmallModel model(6, 64 * 700);
  const TemporaryDirectory directory;
  for (const auto& make : {make_file_backend, make_posix_backend}) {
    model.move_to_file(directory, [make] { return make({}); });
    for (const std::shared_ptr<Trace>& trace : {std::shared_ptr<Trace>(), std::make_shared<Trace>(100)}) {
      Streamer streamer(
          model.table,
          {.device = make_cpu_device({.reads_land = GetParam()}), .budget = model.budget(2), .trace = trace});
      EXPECT_EQ(in_steady_passes(streamer), 0u) << streamer.storage_path().backend;
      EXPECT_TRUE(!trace || trace->dropped() > 0) << "also where the oldest events make room";
    }
  }
}

}  // namespace
}  // namespace tierstream
