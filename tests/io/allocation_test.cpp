// Reading allocates nothing: neither the caller's thread nor the workers ask for memory between open and the
// end.
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>

#include "support/aligned_memory.h"
#include "support/allocations.h"
#include "support/test_files.h"

namespace tierstream {
namespace {

void expect_no_allocation(StorageBackend& backend, const std::string& path) {
  constexpr std::size_t kBlock = 8192;
  const AlignedMemory memory(8 * kBlock);
  const FileId file = backend.open(path);
  const auto read_all = [&] {
    for (int round = 0; round < 10; ++round) {
      for (std::size_t i = 0; i < 8; ++i) {
        const ReadRequest request{i, file, i * kBlock, memory.subspan(i * kBlock, kBlock)};
        ASSERT_EQ(backend.submit({&request, 1}), 1u);
      }
      while (backend.in_flight() > 0) {
        Completion completion;
        if (backend.collect({&completion, 1}, std::chrono::nanoseconds::max()) > 0) {
          ASSERT_FALSE(completion.error);
        }
      }
    }
  };
  const std::size_t before = allocations_so_far();
  read_all();
  EXPECT_EQ(allocations_so_far(), before);
  EXPECT_GT(before, 0u);
}

TEST(Reading, AllocatesNothingWithIoUring) {
  const TemporaryDirectory directory;
  std::unique_ptr<StorageBackend> backend;
  try {
    backend = make_io_uring_backend();
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  expect_no_allocation(*backend, directory.write("file", pattern_bytes(1, 8 * 8192)));
}

TEST(Reading, AllocatesNothingWithPosixThreads) {
  const TemporaryDirectory directory;
  expect_no_allocation(*make_posix_backend(), directory.write("file", pattern_bytes(1, 8 * 8192)));
}

TEST(Reading, AllocatesNothingFromMemory) {
  const auto files = std::make_shared<MemoryFiles>(MemoryFiles{{"file", pattern_bytes(1, 8 * 8192)}});
  expect_no_allocation(*make_memory_backend(files), "file");
}

}  // namespace
}  // namespace tierstream
