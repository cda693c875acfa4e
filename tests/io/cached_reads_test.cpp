// io=auto: what lies in the page cache is read from it, anything else past it, and no page is brought in.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <tierstream/io/cached_pages.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>
#include <thread>

#include "file_backend.h"
#include "posix_files.h"
#include "support/aligned_memory.h"
#include "support/test_files.h"
#include "tools/page_cache.h"

namespace tierstream {
namespace {

constexpr std::size_t kRequestBytes = 1u << 20;
constexpr std::size_t kMostRequests = 32;  // in flight
constexpr std::uint64_t kFileBytes = 40 * kRequestBytes + 777;

/// What this process has fetched from disks so far, where the kernel counts that.
std::optional<std::uint64_t> bytes_from_disks() {
  std::ifstream counters("/proc/self/io");
  for (std::string name; counters >> name;) {
    std::uint64_t value = 0;
    counters >> value;
    if (name == "read_bytes:") return value;
  }
  return std::nullopt;
}

class CachedReads : public testing::TestWithParam<FileBackend> {
 protected:
  void SetUp() override {
    path_ = directory_.write("file", content_);
    try {
      make_cold(path_);
      open_backend();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
    if (!backend_->path().cached_reads) GTEST_SKIP() << backend_->path().fallbacks.at(0).reason;
  }

  void open_backend(CacheUse cache = CacheUse::kAuto, std::size_t max_in_flight = kMostRequests / 2) {
    backend_ = GetParam().make(
        {.cache = cache, .max_in_flight = max_in_flight, .max_cached_in_flight = 2 * max_in_flight});
    backend_->register_memory(memory_.span());
    file_ = backend_->open(path_);
  }

  CachedPages pages() const {
    const FileDescriptor file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
    return cached_pages(file.get(), 0, kFileBytes).value();
  }

  /// Reads the whole file, request by request, and expects its content. Returns what its completions say came
  /// from the page cache.
  std::uint64_t read_all() {
    const StorageCounters counted_before = backend_->counters();
    std::uint64_t cached_bytes = 0;
    std::vector<std::size_t> free(backend_->limits().max_cached_in_flight);
    std::iota(free.begin(), free.end(), std::size_t{0});
    std::array<std::uint64_t, kMostRequests> offsets{};
    std::uint64_t next = 0;
    while (next < kFileBytes || backend_->in_flight() > 0) {
      for (; next < kFileBytes && backend_->free_requests() > 0; next += kRequestBytes) {
        const std::size_t piece = free.back();
        free.pop_back();
        offsets[piece] = next;
        const ReadRequest request{piece, file_, next, memory_.subspan(piece * kRequestBytes, kRequestBytes)};
        EXPECT_EQ(backend_->submit({&request, 1}), 1u);
      }
      Completion completion;
      if (backend_->collect({&completion, 1}, std::chrono::nanoseconds::max()) == 0) continue;
      EXPECT_FALSE(completion.error) << completion.error.message();
      const std::uint64_t offset = offsets[completion.tag];
      EXPECT_EQ(completion.bytes, std::min<std::uint64_t>(kRequestBytes, kFileBytes - offset));
      EXPECT_TRUE(std::ranges::equal(memory_.subspan(completion.tag * kRequestBytes, completion.bytes),
                                     std::span(content_).subspan(offset, completion.bytes)))
          << "at " << offset;
      cached_bytes += completion.cached_bytes;
      free.push_back(completion.tag);
    }
    EXPECT_EQ(backend_->counters().cached_bytes - counted_before.cached_bytes, cached_bytes);
    EXPECT_EQ(backend_->counters().bytes - counted_before.bytes, kFileBytes);
    return cached_bytes;
  }

  /// Brings the file into a state by `prepare`, reads it and hands `check` what came from the page cache.
  /// Since the kernel may drop pages at any time, until it has not.
  template <typename Prepare, typename Check>
  void read_what_stays(const Prepare& prepare, const Check& check) {
    for (int i = 0; i < 10; ++i) {
      prepare();
      open_backend();
      const CachedPages before = pages();
      const std::uint64_t cached_bytes = read_all();
      const CachedPages after = pages();
      ASSERT_LE(after.cached, before.cached);
      if (after == before) return check(cached_bytes);
    }
    GTEST_SKIP() << "the kernel keeps dropping pages";
  }

  TemporaryDirectory directory_;
  std::vector<std::byte> content_ = pattern_bytes(1, kFileBytes);
  std::string path_;
  AlignedMemory memory_{kMostRequests * kRequestBytes};
  std::unique_ptr<StorageBackend> backend_;
  FileId file_{};
};

INSTANTIATE_TEST_SUITE_P(Backends, CachedReads, file_backends(),
                         [](const auto& backend) { return backend.param.name; });

TEST_P(CachedReads, LeaveNothingOfAColdFileInTheCache) {
  EXPECT_EQ(read_all(), 0u);
  check_cold(path_);
}

TEST_P(CachedReads, FetchNothingOfAWarmFileFromTheDisk) {
  std::optional<std::uint64_t> before;
  const auto prepare = [&] {
    make_warm(path_);
    before = bytes_from_disks();
  };
  read_what_stays(prepare, [&](std::uint64_t cached_bytes) {
    EXPECT_EQ(cached_bytes, kFileBytes);
    if (!before) return;
    // Far from all of it: the program itself may have pages to fetch.
    EXPECT_LT(bytes_from_disks().value() - *before, kFileBytes / 2);
  });
}

TEST_P(CachedReads, AllComeHoweverManyAreUnderWay) {
  make_warm(path_);
  for (const std::size_t max_in_flight : {1, 2, 3, 4, 8, 16}) {
    open_backend(CacheUse::kAuto, max_in_flight);
    read_all();
  }
}

/// A wait for several of them must neither swallow a wake nor count one as a read.
TEST_P(CachedReads, AllComeBesideWakes) {
  make_warm(path_);
  open_backend();
  std::jthread waker([this](const std::stop_token& stop) {
    while (!stop.stop_requested()) backend_->wake();
  });
  for (int i = 0; i < 5; ++i) read_all();
}

TEST_P(CachedReads, LetAWakeThrough) {
  make_warm(path_);
  open_backend();
  std::vector<ReadRequest> requests;
  for (std::size_t i = 0; i < kMostRequests; ++i) {
    requests.push_back({i, file_, i * kRequestBytes, memory_.subspan(i * kRequestBytes, kRequestBytes)});
  }
  const auto half = std::span(requests).first(kMostRequests / 2);
  ASSERT_EQ(backend_->submit(half), half.size());
  backend_->submit(std::span(requests).last(kMostRequests / 2));  // taken unless a page was dropped
  backend_->wake();
  std::array<Completion, kMostRequests> completions;
  while (backend_->in_flight() > 0) backend_->collect(completions, std::chrono::nanoseconds::max());
  backend_->wake();
  EXPECT_EQ(backend_->collect(completions, std::chrono::nanoseconds::max()), 0u);
}

TEST_P(CachedReads, TakeTheCachedPartOfAFileFromTheCacheAndAddNothingToIt) {
  const std::uint64_t readahead_bytes = PosixFiles({}, "test").open(path_).readahead_bytes;
  if (kFileBytes / 2 < readahead_bytes + 2 * kRequestBytes) {
    GTEST_SKIP() << "the kernel reads " << readahead_bytes << " bytes ahead";
  }
  std::uint64_t cached_end = 0;
  const auto read_half = [&] {
    make_cold(path_);
    // By readahead, as other programs do: it ends somewhere, and its last pages are marked to go on from
    // there.
    std::ifstream other(path_, std::ios::binary);
    std::vector<char> half(kFileBytes / 2);
    ASSERT_TRUE(other.read(half.data(), static_cast<std::streamsize>(half.size())));
    cached_end = pages().cached * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    ASSERT_LT(cached_end, kFileBytes);
  };
  read_what_stays(read_half, [&](std::uint64_t cached_bytes) {
    EXPECT_EQ(cached_bytes, (cached_end - readahead_bytes) / kRequestBytes * kRequestBytes);
  });
}

TEST_P(CachedReads, NoticeWhatIsDroppedAndWhatIsWrittenMeanwhile) {
  make_warm(path_);
  EXPECT_GT(read_all(), 0u);
  make_cold(path_);
  EXPECT_EQ(read_all(), 0u);
  content_ = pattern_bytes(2, kFileBytes);
  // In the cache, and not on the disk yet.
  read_what_stays([&] { directory_.write("file", content_); },
                  [&](std::uint64_t cached_bytes) { EXPECT_EQ(cached_bytes, kFileBytes); });
}

TEST_P(CachedReads, AreNotMadeWhereTheOptionsForceOneWay) {
  make_warm(path_);
  for (const CacheUse cache : {CacheUse::kDirect, CacheUse::kBuffered}) {
    open_backend(cache);
    EXPECT_FALSE(backend_->path().cached_reads);
    EXPECT_EQ(read_all(), 0u);
  }
}

TEST_P(CachedReads, AreGivenUpWithTheReasonWhereTheKernelDoesNotTell) {
  if (::getuid() != 0) GTEST_SKIP() << "dropping to another user needs root";
  make_warm(path_);
  using std::filesystem::perms;
  std::filesystem::permissions(directory_.path("."), perms::all);
  std::filesystem::permissions(path_, perms::group_read | perms::others_read);
  const auto in_child = [&] {
    if (::setgroups(0, nullptr) != 0 || ::setresuid(65534, 65534, 65534) != 0) std::_Exit(93);
    open_backend();
    const StoragePath taken = backend_->path();
    EXPECT_TRUE(taken.direct);
    const std::uint64_t cached_bytes = read_all();
    if (!taken.cached_reads) {  // before Linux 6.14 everybody is told
      const auto refusal = std::ranges::find(taken.fallbacks, "cached reads", &Fallback::wanted);
      if (refusal == taken.fallbacks.end()) std::_Exit(2);
      EXPECT_THAT(refusal->reason, testing::HasSubstr(path_ + ": the kernel tells only its owner"));
      EXPECT_EQ(cached_bytes, 0u);
    }
    std::_Exit(HasFailure() ? 1 : 0);
  };
  backend_.reset();  // a child of a process with threads may not start any under ThreadSanitizer
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace tierstream
