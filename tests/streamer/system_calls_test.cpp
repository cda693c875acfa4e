// A steady pass makes no system call but for I/O and for waiting, on any thread.

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>

#include <cstdlib>

#include "small_model.h"
#include "support/forbid.h"
#include "support/test_files.h"

namespace tierstream {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // their runtimes make system calls of their own
#else
constexpr bool kSanitized = false;
#endif

constexpr long kCachestat = 451;

struct Reading {
  std::unique_ptr<StorageBackend> (*make)(const StorageOptions&);
  CacheUse cache;
  std::vector<long> system_calls;  ///< that its I/O and its waiting need
};

void walk(Streamer& streamer) {
  for (const Lease& layer : streamer.pass()) {
    if (layer.size() == 0) std::_Exit(1);
  }
}

class SystemCallsTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "sanitizers make system calls of their own";
  }

  /// Ends the process: 0 when the third pass made no other system calls.
  [[noreturn]] static void run_steady_pass(const SmallModel& model, const Reading& reading) {
    Streamer streamer(model.table,
                      {.device = make_cpu_device({.reads_land = GetParam()}), .budget = model.budget(2)});
    for (int pass = 0; pass < 2; ++pass) walk(streamer);
    std::vector<long> allowed = reading.system_calls;
    // The thread that touches the memory first, beside the passes, may begin and end as late as this.
    allowed.insert(allowed.end(), {SYS_set_robust_list, SYS_rseq, SYS_mmap, SYS_mprotect, SYS_madvise,
                                   SYS_munmap, SYS_sched_yield, SYS_exit});
    allow_only(allowed);
    walk(streamer);
    std::_Exit(0);
  }
};

INSTANTIATE_TEST_SUITE_P(, SystemCallsTest, ::testing::Bool(), name_of_mode);

TEST_P(SystemCallsTest, ASteadyPassMakesThoseOfItsIoAndItsWaitingOnly) {
  SmallModel model(6, 64 * 700);
  const TemporaryDirectory directory;
  const std::vector<Reading> readings = {
      {make_file_backend, CacheUse::kBuffered, {SYS_io_uring_enter, SYS_futex}},
      {make_posix_backend, CacheUse::kBuffered, {SYS_pread64, SYS_futex}},
      // Where the bytes of a read are had from is asked beforehand.
      {make_file_backend, CacheUse::kAuto, {SYS_io_uring_enter, SYS_futex, kCachestat, SYS_fstatfs}},
      {make_posix_backend, CacheUse::kAuto, {SYS_pread64, SYS_futex, kCachestat, SYS_fstatfs}},
  };
  for (const Reading& reading : readings) {
    model.move_to_file(directory, [&] { return reading.make({.cache = reading.cache}); });
    EXPECT_EXIT(run_steady_pass(model, reading), ::testing::ExitedWithCode(0), "^$")
        << "another system call, by the number shown";
  }
}

TEST_P(SystemCallsTest, AnyOtherIsNoticed) {
  SmallModel model(6, 64 * 700);
  const TemporaryDirectory directory;
  const Reading waiting_only{make_posix_backend, CacheUse::kBuffered, {SYS_futex}};
  model.move_to_file(directory, [&] { return waiting_only.make({.cache = waiting_only.cache}); });
  EXPECT_EXIT(run_steady_pass(model, waiting_only), ::testing::ExitedWithCode(92),
              std::to_string(SYS_pread64));
}

}  // namespace
}  // namespace tierstream
