#pragma once

#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/io/storage_backend.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "support/aligned_memory.h"
#include "support/test_files.h"

namespace tierstream {

/// A kind of storage with files to read: what the contract suite needs to know of a backend.
class StorageUnderTest {
 public:
  virtual ~StorageUnderTest() = default;
  /// Makes a file of `bytes` bytes, pattern_byte(seed, offset) each, and returns the path to open.
  virtual std::string add_file(std::uint64_t seed, std::size_t bytes) = 0;
  /// A backend that reads the files added so far.
  virtual std::unique_ptr<StorageBackend> make(std::size_t max_in_flight) = 0;

  /// Cuts a file while it is open. False: such files cannot change.
  virtual bool truncate(const std::string&, std::uint64_t) { return false; }
  /// A file that is a hole but for its last `tail.size()` bytes. Empty: there are none of that size.
  virtual std::string add_sparse_file(std::uint64_t, std::span<const std::byte>) { return {}; }
  /// Prepares `memory` for reads, for storage that knows registration.
  virtual void prepare(StorageBackend&, std::span<std::byte>) {}
};

struct StorageCase {
  std::string name;
  std::function<std::unique_ptr<StorageUnderTest>()> make;
  /// Empty where this storage cannot be had here, else the reason, for the log.
  std::function<std::string()> unavailable = [] { return std::string(); };

  friend void PrintTo(const StorageCase& storage, std::ostream* out) { *out << storage.name; }
};

inline std::string name_of_case(const testing::TestParamInfo<StorageCase>& info) { return info.param.name; }

/// What every storage backend must do. Instantiate it with INSTANTIATE_TEST_SUITE_P.
class StorageContract : public testing::TestWithParam<StorageCase> {
 protected:
  static constexpr auto kForever = std::chrono::nanoseconds::max();

  void SetUp() override {
    if (const std::string reason = GetParam().unavailable(); !reason.empty()) GTEST_SKIP() << reason;
    storage_ = GetParam().make();
  }

  std::unique_ptr<StorageBackend> make(std::size_t max_in_flight = 8) {
    auto backend = storage_->make(max_in_flight);
    storage_->prepare(*backend, memory_.span());
    return backend;
  }

  /// Collects until nothing is in flight, in the order of arrival.
  static std::vector<Completion> collect_all(StorageBackend& backend) {
    std::vector<Completion> all;
    while (backend.in_flight() > 0) {
      std::array<Completion, 4> some;
      const std::size_t count = backend.collect(some, kForever);
      all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(count));
    }
    return all;
  }

  static void expect_pattern(std::span<const std::byte> memory, std::uint64_t seed, std::uint64_t offset) {
    for (std::size_t i = 0; i < memory.size(); ++i) {
      ASSERT_EQ(memory[i], pattern_byte(seed, offset + i)) << "at byte " << offset + i;
    }
  }

  static constexpr std::size_t kBlock = 8192;  // a multiple of all alignments met so far
  static constexpr std::size_t kFileBytes = 10 * kBlock + 777;

  std::unique_ptr<StorageUnderTest> storage_;
  AlignedMemory memory_{64 * kBlock};
};

TEST_P(StorageContract, ReadsTheBytesThatWereAskedFor) {
  const std::string path = storage_->add_file(1, kFileBytes);
  const auto backend = make();
  const FileId file = backend->open(path);
  ASSERT_EQ(backend->info(file).bytes, kFileBytes);
  ASSERT_EQ(backend->path_of(file), path);

  const ReadRequest request{7, file, 2 * kBlock, memory_.subspan(0, 3 * kBlock)};
  ASSERT_EQ(backend->submit({&request, 1}), 1u);
  ASSERT_EQ(backend->in_flight(), 1u);
  const auto completions = collect_all(*backend);

  ASSERT_EQ(completions.size(), 1u);
  EXPECT_EQ(completions[0].tag, 7u);
  EXPECT_FALSE(completions[0].error) << completions[0].error.message();
  EXPECT_EQ(completions[0].bytes, 3 * kBlock);
  expect_pattern(memory_.subspan(0, 3 * kBlock), 1, 2 * kBlock);
  EXPECT_EQ(memory_.span()[3 * kBlock], AlignedMemory::kPoison);
  EXPECT_EQ(backend->counters().requests, 1u);
  EXPECT_EQ(backend->counters().bytes, 3 * kBlock);
}

TEST_P(StorageContract, ReadsTheSmallestPieceAtEveryPlaceThatTheAlignmentAllows) {
  const auto path = storage_->add_file(1, kFileBytes);
  const auto backend = make();
  const FileId file = backend->open(path);
  const FileInfo info = backend->info(file);
  const std::size_t step = info.offset_alignment;
  const std::size_t shift = info.memory_alignment;
  for (std::size_t i = 0; i < 5; ++i) {
    memory_.poison();
    const std::uint64_t offset = (2 * i + 1) * step;
    const auto destination = memory_.subspan((2 * i + 1) * shift, 3 * step);
    const ReadRequest request{i, file, offset, destination};
    ASSERT_EQ(backend->submit({&request, 1}), 1u);
    const auto completions = collect_all(*backend);
    ASSERT_EQ(completions.at(0).bytes, 3 * step);
    expect_pattern(destination, 1, offset);
  }
}

TEST_P(StorageContract, EndsAReadAcrossTheEndOfTheFileWithTheBytesUpToThere) {
  const auto path = storage_->add_file(3, kFileBytes);
  const auto backend = make();
  const FileId file = backend->open(path);
  const ReadRequest request{0, file, 10 * kBlock, memory_.subspan(0, 2 * kBlock)};
  backend->submit({&request, 1});
  const auto completions = collect_all(*backend);
  ASSERT_FALSE(completions.at(0).error);
  EXPECT_EQ(completions[0].bytes, 777u);
  expect_pattern(memory_.subspan(0, 777), 3, 10 * kBlock);
}

TEST_P(StorageContract, TellsManyFilesApart) {
  constexpr std::size_t kFiles = 20;
  std::vector<std::string> paths;
  for (std::size_t i = 0; i < kFiles; ++i) paths.push_back(storage_->add_file(i, kBlock));
  const auto backend = make(kFiles);
  std::vector<ReadRequest> requests;
  for (std::size_t i = 0; i < kFiles; ++i) {
    const FileId file = backend->open(paths[i]);
    EXPECT_EQ(static_cast<std::size_t>(file), i);
    requests.push_back({i, file, 0, memory_.subspan(i * kBlock, kBlock)});
  }
  ASSERT_EQ(backend->submit(requests), kFiles);
  ASSERT_EQ(collect_all(*backend).size(), kFiles);
  for (std::size_t i = 0; i < kFiles; ++i) expect_pattern(memory_.subspan(i * kBlock, kBlock), i, 0);
}

TEST_P(StorageContract, TakesNoMoreRequestsThanItsQueueHolds) {
  const auto path = storage_->add_file(1, kFileBytes);
  const auto backend = make(4);
  const FileId file = backend->open(path);
  std::vector<ReadRequest> requests;
  for (std::size_t i = 0; i < 6; ++i)
    requests.push_back({i, file, i * kBlock, memory_.subspan(i * kBlock, kBlock)});
  EXPECT_EQ(backend->submit(requests), 4u);
  EXPECT_EQ(backend->free_requests(), 0u);
  EXPECT_EQ(backend->submit(std::span(requests).subspan(4)), 0u);
  EXPECT_EQ(backend->in_flight(), 4u);
  EXPECT_EQ(collect_all(*backend).size(), 4u);
}

TEST_P(StorageContract, ReadsManyTimesItsDepthEachRequestOnce) {
  const auto path = storage_->add_file(1, kFileBytes);
  const auto backend = make(4);
  const FileId file = backend->open(path);
  constexpr std::size_t kRequests = 64;
  std::vector<int> seen(kRequests, 0);
  std::size_t submitted = 0;
  while (submitted < kRequests || backend->in_flight() > 0) {
    std::vector<ReadRequest> batch;
    for (std::size_t i = submitted; i < std::min(kRequests, submitted + 3); ++i) {
      batch.push_back({i, file, i % 10 * kBlock, memory_.subspan(i * kBlock, kBlock)});
    }
    submitted += backend->submit(batch);
    std::array<Completion, 2> completions;
    const std::size_t count = backend->collect(completions, kForever);
    for (std::size_t i = 0; i < count; ++i) {
      ASSERT_FALSE(completions[i].error);
      ASSERT_EQ(completions[i].bytes, kBlock);
      ++seen.at(completions[i].tag);
    }
  }
  EXPECT_TRUE(std::ranges::all_of(seen, [](int times) { return times == 1; }));
  for (std::size_t i = 0; i < kRequests; ++i) {
    expect_pattern(memory_.subspan(i * kBlock, kBlock), 1, i % 10 * kBlock);
  }
  EXPECT_EQ(backend->counters().requests, kRequests);
  EXPECT_EQ(backend->counters().bytes, kRequests * kBlock);
}

TEST_P(StorageContract, RefusesRequestsThatBreakItsRulesAndStartsNone) {
  const auto path = storage_->add_file(1, kFileBytes);
  const auto backend = make();
  const FileId file = backend->open(path);
  const FileInfo info = backend->info(file);
  const ReadRequest good{0, file, 0, memory_.subspan(0, kBlock)};
  const auto expect_refused = [&](const ReadRequest& bad) {
    const ReadRequest both[] = {good, bad};
    try {
      backend->submit(both);
      ADD_FAILURE() << "was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::kInvalidArgument) << error.what();
    }
    EXPECT_EQ(backend->in_flight(), 0u);
  };
  expect_refused({1, file, 0, {}});
  expect_refused({1, file, 11 * kBlock, memory_.subspan(0, kBlock)});
  expect_refused({1, FileId{99}, 0, memory_.subspan(0, kBlock)});
  if (info.offset_alignment > 1) {
    expect_refused({1, file, info.offset_alignment / 2, memory_.subspan(0, kBlock)});
    expect_refused({1, file, 0, memory_.subspan(0, info.offset_alignment / 2)});
  }
  if (info.memory_alignment > 1)
    expect_refused({1, file, 0, memory_.subspan(info.memory_alignment / 2, kBlock)});
}

TEST_P(StorageContract, RefusesAFileThatIsNotThere) {
  storage_->add_file(1, kBlock);
  const auto backend = make();
  try {
    backend->open("/no/such/file");
    FAIL() << "was opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kOpenFailed);
    EXPECT_EQ(error.place().file, "/no/such/file");
    EXPECT_TRUE(std::string(error.what()).starts_with("/no/such/file: ")) << error.what();
  }
}

TEST_P(StorageContract, NumbersFilesWithoutTheOnesThatCouldNotBeOpened) {
  const auto first = storage_->add_file(1, kBlock);
  const auto second = storage_->add_file(2, kBlock);
  const auto backend = make();
  EXPECT_EQ(backend->open(first), FileId{0});
  EXPECT_THROW(backend->open("/no/such/file"), Error);
  const FileId file = backend->open(second);
  EXPECT_EQ(file, FileId{1});
  const ReadRequest request{0, file, 0, memory_.subspan(0, kBlock)};
  backend->submit({&request, 1});
  collect_all(*backend);
  expect_pattern(memory_.subspan(0, kBlock), 2, 0);
}

TEST_P(StorageContract, OpensNoFileWhileReadsAreInFlight) {
  const auto first = storage_->add_file(1, kBlock);
  const auto second = storage_->add_file(2, kBlock);
  const auto backend = make();
  const ReadRequest request{0, backend->open(first), 0, memory_.subspan(0, kBlock)};
  backend->submit({&request, 1});
  try {
    backend->open(second);
    ADD_FAILURE() << "was opened";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kInvalidArgument) << error.what();
    EXPECT_EQ(error.place().file, second);
  }
  EXPECT_FALSE(collect_all(*backend).at(0).error);
  EXPECT_EQ(backend->open(second), FileId{1});
}

TEST_P(StorageContract, EndsAWaitWhenWokenFromAnotherThread) {
  storage_->add_file(1, kBlock);
  const auto backend = make();
  Completion completion;
  const std::jthread waker([&] { backend->wake(); });
  EXPECT_EQ(backend->collect({&completion, 1}, kForever), 0u);
}

TEST_P(StorageContract, KeepsAWakeThatComesBeforeTheWait) {
  storage_->add_file(1, kBlock);
  const auto backend = make();
  Completion completion;
  for (int i = 0; i < 3; ++i) {
    backend->wake();
    EXPECT_EQ(backend->collect({&completion, 1}, kForever), 0u);
  }
}

TEST_P(StorageContract, DoesNotWaitWhenAskedNotTo) {
  storage_->add_file(1, kBlock);
  const auto backend = make();
  Completion completion;
  EXPECT_EQ(backend->collect({&completion, 1}, std::chrono::nanoseconds(0)), 0u);
  EXPECT_EQ(backend->collect({&completion, 1}, std::chrono::nanoseconds(1000)), 0u);
}

TEST_P(StorageContract, CompletesReadsForACallerThatOnlyPolls) {
  const auto path = storage_->add_file(1, kFileBytes);
  const auto backend = make();
  const FileId file = backend->open(path);
  const ReadRequest request{0, file, 0, memory_.subspan(0, kBlock)};
  backend->submit({&request, 1});
  Completion completion;
  while (backend->collect({&completion, 1}, std::chrono::nanoseconds(0)) == 0) std::this_thread::yield();
  EXPECT_EQ(completion.bytes, kBlock);
  expect_pattern(memory_.subspan(0, kBlock), 1, 0);
}

TEST_P(StorageContract, ReadsFarBeyondTwoGibibytes) {
  constexpr std::uint64_t kBytes = (3ull << 30) + 2 * kBlock;
  const auto tail = pattern_bytes(5, 2 * kBlock);
  const std::string path = storage_->add_sparse_file(kBytes, tail);
  if (path.empty()) GTEST_SKIP() << "this storage has no files of that size";
  const auto backend = make();
  const FileId file = backend->open(path);
  const ReadRequest request{0, file, 3ull << 30, memory_.subspan(0, 2 * kBlock)};
  backend->submit({&request, 1});
  ASSERT_EQ(collect_all(*backend).at(0).bytes, 2 * kBlock);
  expect_pattern(memory_.subspan(0, 2 * kBlock), 5, 0);
}

TEST_P(StorageContract, ReportsAFileThatWasCutWhileOpen) {
  const auto path = storage_->add_file(1, kFileBytes);
  const auto backend = make();
  const FileId file = backend->open(path);
  for (const std::uint64_t bytes :
       {5 * kBlock + 300, 3 * kBlock}) {  // inside a block, then before the read starts
    if (!storage_->truncate(path, bytes)) GTEST_SKIP() << "files of this storage do not change";
    const ReadRequest request{0, file, 4 * kBlock, memory_.subspan(0, 4 * kBlock)};
    backend->submit({&request, 1});
    const auto completions = collect_all(*backend);
    EXPECT_EQ(completions.at(0).error, Errc::kEndOfFile) << completions[0].error.message();
    EXPECT_EQ(completions[0].bytes, 0u);
  }
}

TEST_P(StorageContract, BelongsToTheThreadThatSubmitsFirst) {
  const auto path = storage_->add_file(1, kFileBytes);
  const auto backend = make();
  const FileId file = backend->open(path);
  std::thread([&] {
    const ReadRequest request{0, file, 0, memory_.subspan(0, kBlock)};
    backend->submit({&request, 1});
    collect_all(*backend);
  }).join();
  EXPECT_EQ(backend->counters().bytes, kBlock);
  expect_pattern(memory_.subspan(0, kBlock), 1, 0);
}

TEST_P(StorageContract, WaitsAtItsEndForReadsInFlight) {
  const auto path = storage_->add_file(1, kFileBytes);
  for (int i = 0; i < 50; ++i) {
    const AlignedMemory memory(
        4 * kBlock);  // freed right after the backend: a late write shows under a sanitizer
    const auto backend = storage_->make(4);
    const FileId file = backend->open(path);
    for (std::size_t j = 0; j < 4; ++j) {
      const ReadRequest request{j, file, j * kBlock, memory.subspan(j * kBlock, kBlock)};
      backend->submit({&request, 1});
    }
    Completion completion;
    if (i % 2 == 0) backend->collect({&completion, 1}, kForever);
  }
}

TEST_P(StorageContract, ReadsExactlyAtAnyPlace) {
  constexpr std::size_t kBytes = (1u << 20) + 5 * kBlock + 13;
  const auto path = storage_->add_file(9, kBytes);
  const auto backend = make();
  const FileId file = backend->open(path);
  for (const auto& [offset, bytes] : std::vector<std::pair<std::uint64_t, std::size_t>>{
           {0, 8}, {8, 1}, {4095, 2}, {5, kBytes - 5}, {kBytes - 1, 1}, {3, 0}, {kBytes, 0}}) {
    std::vector<std::byte> destination(bytes);
    read_exactly(*backend, file, offset, destination);
    expect_pattern(destination, 9, offset);
  }
  std::vector<std::byte> too_many(2);
  try {
    read_exactly(*backend, file, kBytes - 1, too_many);
    FAIL() << "read past the end";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kEndOfFile);
    EXPECT_EQ(error.place().offset, kBytes - 1);
  }
}

}  // namespace tierstream
