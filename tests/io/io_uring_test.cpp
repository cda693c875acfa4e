// What is particular to io_uring: where it is refused, registration and its limits, the owning thread.
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/aligned_memory.h"
#include "support/forbid.h"
#include "support/test_files.h"

namespace tierstream {
namespace {

using testing::HasSubstr;

std::optional<std::string> reason_for(const StoragePath& path, const std::string& wanted) {
  const auto found = std::ranges::find(path.fallbacks, wanted, &Fallback::wanted);
  if (found == path.fallbacks.end()) return std::nullopt;
  return found->reason;
}

class IoUringRefused : public testing::TestWithParam<long> {};

TEST_P(IoUringRefused, IsReplacedByPosixAndTheReasonKept) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("file", pattern_bytes(1, 8192));
  const auto in_child = [&] {
    forbid(GetParam());
    const auto backend = make_file_backend();
    const StoragePath taken = backend->path();
    EXPECT_EQ(taken.backend, "posix");
    const auto reason = reason_for(taken, "io_uring");
    if (!reason) std::_Exit(2);
    EXPECT_THAT(*reason, HasSubstr("Operation not permitted"));
    EXPECT_THAT(*reason, HasSubstr("kernel.io_uring_disabled is "));
    EXPECT_THAT(*reason, HasSubstr("seccomp"));
    std::vector<std::byte> content(8192);
    read_exactly(*backend, backend->open(path), 0, content);
    EXPECT_EQ(content, pattern_bytes(1, 8192));
    try {
      make_io_uring_backend();
      ADD_FAILURE() << "was made";
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::kBackendUnavailable);
    }
    try {
      make_file_backend({.require_io_uring = true});
      ADD_FAILURE() << "was made";
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::kRequirementNotMet);
      EXPECT_THAT(error.what(), HasSubstr("seccomp"));
    }
    std::_Exit(testing::Test::HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "");
}

INSTANTIATE_TEST_SUITE_P(SystemCalls, IoUringRefused, testing::Values(SYS_io_uring_setup, SYS_io_uring_enter),
                         [](const auto& call) {
                           return call.param == SYS_io_uring_setup ? "io_uring_setup" : "io_uring_enter";
                         });

class IoUring : public testing::Test {
 protected:
  void SetUp() override {
    try {
      make_io_uring_backend();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }

  /// Reads `memory.size()` bytes from the start of `file` and expects the pattern of seed 1.
  static void expect_read(StorageBackend& backend, FileId file, std::span<std::byte> memory) {
    const ReadRequest request{0, file, 0, memory};
    backend.submit({&request, 1});
    Completion completion;
    while (backend.collect({&completion, 1}, std::chrono::nanoseconds::max()) == 0) {
    }
    ASSERT_FALSE(completion.error) << completion.error.message();
    for (std::size_t i = 0; i < memory.size(); ++i) ASSERT_EQ(memory[i], pattern_byte(1, i)) << i;
  }

  static constexpr std::size_t kFileBytes = 64 * 1024;
  TemporaryDirectory directory_;
  std::string path_ = directory_.write("file", pattern_bytes(1, kFileBytes));
};

TEST_F(IoUring, TellsWhatIsRegistered) {
  AlignedMemory first(kFileBytes);
  AlignedMemory second(kFileBytes);
  const auto backend = make_io_uring_backend();
  EXPECT_FALSE(backend->path().files_registered);
  EXPECT_FALSE(backend->path().buffers_registered);
  const FileId file = backend->open(path_);
  EXPECT_TRUE(backend->path().files_registered);
  ASSERT_TRUE(backend->register_memory(first.span()));
  ASSERT_TRUE(backend->register_memory(second.span()));
  EXPECT_TRUE(backend->path().buffers_registered);
  expect_read(*backend, file, first.span());
  expect_read(*backend, file, second.span());
  backend->unregister_memory();
  EXPECT_FALSE(backend->path().buffers_registered);
  first.poison();
  expect_read(*backend, file, first.span());
  ASSERT_TRUE(backend->register_memory(first.span()));
  first.poison();
  expect_read(*backend, file, first.span());
  EXPECT_TRUE(backend->path().fallbacks.empty());
}

TEST_F(IoUring, RegistersFilesAfterReadsHaveBegun) {
  AlignedMemory memory(kFileBytes);
  const auto backend = make_io_uring_backend();
  expect_read(*backend, backend->open(path_), memory.span());
  const FileId second = backend->open(path_);
  EXPECT_TRUE(backend->path().files_registered);
  memory.poison();
  expect_read(*backend, second, memory.span());
}

TEST_F(IoUring, KeepsTheReasonWhyMemoryIsNotRegisteredAndReadsAllTheSame) {
  if (::getuid() != 0) GTEST_SKIP() << "dropping to another user needs root";
  const auto in_child = [&] {
    const rlimit limit{1 << 20, 1 << 20};
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) std::_Exit(92);
    // Before the ring is made: root's rings are free of the limit for good.
    std::filesystem::permissions(directory_.path("."), std::filesystem::perms::all);
    if (::setgroups(0, nullptr) != 0 || ::setresuid(65534, 65534, 65534) != 0) std::_Exit(93);
    const auto backend = make_io_uring_backend();
    const FileId file = backend->open(path_);
    AlignedMemory memory(16 << 20);
    EXPECT_FALSE(backend->register_memory(memory.span()));
    const StoragePath taken = backend->path();
    EXPECT_FALSE(taken.buffers_registered);
    const auto reason = reason_for(taken, "registered buffers");
    if (!reason) std::_Exit(2);
    EXPECT_THAT(*reason, HasSubstr("RLIMIT_MEMLOCK is 1048576 bytes"));
    EXPECT_THAT(*reason, HasSubstr(std::to_string(16 << 20)));
    expect_read(*backend, file, memory.subspan(0, kFileBytes));
    std::_Exit(testing::Test::HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "");
}

TEST_F(IoUring, RefusesMemoryThatIsNotThereWhereRegistrationIsRequired) {
  const std::span<std::byte> nowhere(reinterpret_cast<std::byte*>(4096), 4096);
  const auto wishing = make_io_uring_backend();
  EXPECT_FALSE(wishing->register_memory(nowhere));
  EXPECT_THAT(reason_for(wishing->path(), "registered buffers").value_or(""), HasSubstr("Bad address"));
  const auto requiring = make_io_uring_backend({.require_registered = true});
  try {
    requiring->register_memory(nowhere);
    FAIL() << "was registered";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kRequirementNotMet);
  }
}

TEST_F(IoUring, RefusesASecondThread) {
  AlignedMemory memory(kFileBytes);
  const auto backend = make_io_uring_backend();
  const FileId file = backend->open(path_);
  expect_read(*backend, file, memory.span());
  std::thread([&] {
    const ReadRequest request{0, file, 0, memory.span()};
    try {
      backend->submit({&request, 1});
      ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("belongs to the thread"));
    }
  }).join();
  EXPECT_EQ(backend->in_flight(), 0u);
  expect_read(*backend, file, memory.span());
}

/// The kernel shows workers beside the process's threads. They stay for seconds after their last work, and
/// end with the thread that they work for.
std::size_t io_uring_workers() {
  std::size_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string task_name;
    std::getline(std::ifstream(task.path() / "comm"), task_name);
    count += task_name.starts_with("iou-wrk-");
  }
  return count;
}

TEST_F(IoUring, ReadsTheCacheByNoMoreWorkersThanItIsTold) {
  constexpr std::size_t kReads = 16;
  constexpr std::size_t kReadBytes = 1u << 20;  // takes a worker longer than it takes to ask for another one
  const std::string path = directory_.write("large", pattern_bytes(1, kReads * kReadBytes));
  const std::size_t before = io_uring_workers();
  std::size_t workers = 0;
  std::thread([&] {
    const auto backend = make_io_uring_backend({.cache = CacheUse::kBuffered, .threads = 1});
    const FileId file = backend->open(path);
    AlignedMemory memory(kReads * kReadBytes);
    std::vector<ReadRequest> requests;
    for (std::size_t i = 0; i < kReads; ++i) {
      requests.push_back({i, file, i * kReadBytes, memory.span().subspan(i * kReadBytes, kReadBytes)});
    }
    std::array<Completion, kReads> completions;
    for (int round = 0; round < 16; ++round) {  // not bounded, they are several by then
      EXPECT_EQ(backend->submit(requests), kReads);
      while (backend->in_flight() != 0) backend->collect(completions, std::chrono::seconds(1));
    }
    EXPECT_TRUE(backend->path().fallbacks.empty());
    workers = io_uring_workers() - before;
  }).join();
  EXPECT_EQ(workers, 1u);
}

TEST_F(IoUring, NeedsAThread) { EXPECT_THROW(make_io_uring_backend({.threads = 0u}), Error); }

TEST_F(IoUring, SaysHowManyRequestsItTakesAtMost) {
  try {
    make_io_uring_backend({.max_in_flight = 1u << 20});
    FAIL() << "was made";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("at most 32767 requests"));
  }
}

}  // namespace
}  // namespace tierstream
