#include "tools/machine_limits.h"

#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <vector>

#include "support/test_files.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

/// RLIMIT_MEMLOCK while it lives.
class LockLimitChange {
 public:
  explicit LockLimitChange(rlim_t bytes) {
    ::getrlimit(RLIMIT_MEMLOCK, &before_);
    const rlimit changed{.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_MEMLOCK, &changed);
  }
  LockLimitChange(const LockLimitChange&) = delete;
  LockLimitChange& operator=(const LockLimitChange&) = delete;
  ~LockLimitChange() { ::setrlimit(RLIMIT_MEMLOCK, &before_); }

 private:
  rlimit before_{};
};

TEST(LockLimit, TellsTheLimitAndWhetherThisProcessMayPassIt) {
  constexpr std::size_t kLimitBytes = 16 * 4096;
  const LockLimitChange change(kLimitBytes);
  std::vector<std::byte> memory(4 * kLimitBytes);
  const bool lifted = ::mlock(memory.data(), memory.size()) == 0;
  if (lifted) ::munlock(memory.data(), memory.size());
  const LockLimit limit = lock_limit();
  EXPECT_EQ(limit.bytes, kLimitBytes);
  EXPECT_EQ(limit.lifted, lifted);
}

TEST(TryStorage, TellsTheWayThatAFileIsRead) {
  const TemporaryDirectory directory;
  const StoragePath path = try_storage(directory.write("file", pattern_bytes(1, 10'000)));
  EXPECT_THAT(path.backend, AnyOf("io_uring", "posix"));
  if (path.backend != "io_uring" || !path.direct || !path.files_registered || !path.buffers_registered) {
    EXPECT_FALSE(path.fallbacks.empty()) << "what is not had has a reason";
  }
}

TEST(TryStorage, AMissingFileIsAnErrorThatNamesIt) {
  const TemporaryDirectory directory;
  const std::string missing = directory.path("missing");
  expect_throws(Errc::kOpenFailed, HasSubstr(missing), [&] { try_storage(missing); });
}

}  // namespace
}  // namespace tierstream
