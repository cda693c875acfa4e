// What the shell of every backend makes of raw results.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/io/storage_backend.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <optional>

#include "support/aligned_memory.h"
#include "support/faulty_backend.h"
#include "support/scripted_backend.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using namespace std::chrono_literals;

constexpr std::uint64_t kScriptedBytes = 3 * 4096 + 100;
constexpr std::uint64_t kSeed = 42;

class Shell : public testing::Test {
 protected:
  ScriptedBackend& backend() { return backend_; }

  void start(std::uint64_t offset, std::size_t bytes) {
    const ReadRequest request{77, file_, offset, memory_.subspan(0, bytes)};
    ASSERT_EQ(backend_.submit({&request, 1}), 1u);
  }

  Completion finish() {
    Completion completion{};
    for (int i = 0; backend_.collect({&completion, 1}, 1ns) == 0; ++i) {
      if (i > 5000) {
        ADD_FAILURE() << "the read does not end";
        break;
      }
    }
    return completion;
  }

  Completion read(std::uint64_t offset, std::size_t bytes) {
    start(offset, bytes);
    return finish();
  }

  void expect_whole(const Completion& completion, std::uint64_t offset, std::size_t bytes) {
    EXPECT_FALSE(completion.error) << completion.error.message();
    EXPECT_EQ(completion.tag, 77u);
    EXPECT_EQ(completion.bytes, bytes);
    for (std::size_t i = 0; i < bytes; ++i)
      ASSERT_EQ(memory_.span()[i], pattern_byte(kSeed, offset + i)) << i;
  }

  AlignedMemory memory_{16384};
  ScriptedBackend backend_{
      {{.path = "scripted",
        .info = {.bytes = kScriptedBytes, .offset_alignment = 512, .memory_alignment = 512},
        .seed = kSeed}}};
  FileId file_ = backend_.open("scripted");
};

class ShortReads : public Shell, public testing::WithParamInterface<std::int64_t> {};

TEST_P(ShortReads, AreContinuedFromTheLastAlignedPosition) {
  backend().script({GetParam()});
  expect_whole(read(512, 8192), 512, 8192);
  ASSERT_EQ(backend().reads().size(), 2u);
  const std::uint64_t skip = static_cast<std::uint64_t>(GetParam()) / 512 * 512;
  EXPECT_EQ(backend().reads()[1].offset, 512 + skip);
  EXPECT_EQ(backend().reads()[1].destination.data(), memory_.span().data() + skip);
  EXPECT_EQ(backend().counters().resubmitted_short, 1u);
}

INSTANTIATE_TEST_SUITE_P(Bytes, ShortReads, testing::Values(1, 511, 512, 513, 4095, 4096));

TEST_F(Shell, PutsManyShortReadsTogether) {
  backend().script({100, 700, 511, 1024, 513});
  expect_whole(read(0, 4096), 0, 4096);
}

TEST_F(Shell, ExpectsOnlyTheBytesUpToTheEndOfTheFile) {
  expect_whole(read(3 * 4096, 4096), 3 * 4096, 100);
  EXPECT_EQ(backend().counters().resubmitted_short, 0u);
  EXPECT_EQ(backend().counters().bytes, 100u);
}

TEST(ShellWithCachedFile, CountsTheBytesThatCameFromThePageCache) {
  ScriptedBackend backend(
      {{.path = "cached", .info = {.bytes = 6000, .offset_alignment = 512}, .cached_from = 2048}});
  const FileId file = backend.open("cached");
  const AlignedMemory memory(8192);
  // The first is continued where the cache begins, the second reaches beyond the end, the third fails.
  backend.script({2048 + 100, 6000 - 4096, -EIO});
  const ReadRequest requests[] = {{0, file, 0, memory.subspan(0, 4096)},
                                  {1, file, 4096, memory.subspan(4096, 4096)},
                                  {2, file, 4096, memory.subspan(4096, 4096)}};
  backend.submit(requests);
  std::map<std::uint64_t, std::size_t> cached_bytes;
  while (backend.in_flight() > 0) {
    Completion completion;
    if (backend.collect({&completion, 1}, 0ns) > 0) cached_bytes[completion.tag] = completion.cached_bytes;
  }
  EXPECT_THAT(cached_bytes, ElementsAre(Pair(0, 4096 - 2148), Pair(1, 6000 - 4096), Pair(2, 0)));
  EXPECT_EQ(backend.counters().cached_bytes, 4096u - 2148 + 6000 - 4096);
  std::vector<bool> cached;
  for (const ScriptedBackend::RawRead& read : backend.reads()) cached.push_back(read.cached);
  EXPECT_THAT(cached, ElementsAre(false, true, true, true));
}

TEST(ShellWithCachedFile, TakesMoreReadsWhileAllAreCached) {
  constexpr std::size_t kBlock = 512;
  ScriptedBackend backend(
      {{.path = "cached", .info = {.bytes = 40 * kBlock, .offset_alignment = kBlock}, .cached_from = kBlock}},
      {.max_in_flight = 2, .max_cached_in_flight = 5});
  const FileId file = backend.open("cached");
  const AlignedMemory memory(kBlock);
  const auto submit = [&](std::size_t begin, std::size_t count) {
    std::vector<ReadRequest> requests;
    for (std::size_t i = 0; i < count; ++i) requests.push_back({0, file, begin + i * kBlock, memory.span()});
    return backend.submit(requests);
  };
  const auto collect = [&] {
    Completion completion;
    while (backend.collect({&completion, 1}, 0ns) == 0) {
    }
    EXPECT_FALSE(completion.error);
  };
  EXPECT_EQ(submit(kBlock, 10), 2u) << "whether they are cached is known afterwards";
  EXPECT_EQ(submit(kBlock, 10), 2u);
  EXPECT_EQ(submit(kBlock, 10), 1u);
  EXPECT_EQ(backend.free_requests(), 0u);
  for (int i = 0; i < 4; ++i) collect();
  EXPECT_EQ(submit(0, 10), 2u);
  EXPECT_EQ(backend.free_requests(), 0u) << "one goes to the disk";
  for (int i = 0; i < 2; ++i) collect();
  EXPECT_EQ(backend.in_flight(), 1u);
  EXPECT_EQ(backend.free_requests(), 2u) << "it came, what is left is cached";
  collect();
  EXPECT_EQ(submit(0, 1), 1u);
  EXPECT_EQ(backend.free_requests(), 1u);
}

TEST(ShellWithOddAlignment, AFileThatIsRefusedLeavesTheOthersTheirNumbers) {
  ScriptedBackend backend({{.path = "odd", .info = {.bytes = 100, .offset_alignment = 3}},
                           {.path = "good", .info = {.bytes = 100}, .seed = kSeed}});
  expect_throws(Errc::kInternal, HasSubstr("no power of two"), [&] { (void)backend.open("odd"); });
  const FileId good = backend.open("good");
  EXPECT_EQ(backend.path_of(good), "good");
  const AlignedMemory memory(4096);
  read_exactly(backend, good, 0, memory.subspan(0, 100));
  EXPECT_EQ(memory.span()[99], pattern_byte(kSeed, 99));
}

TEST_F(Shell, ARetryThatCannotBeStartedEndsItsReadBesideThoseThatAreWhole) {
  backend().script({4096, 512});
  const ReadRequest requests[] = {{77, file_, 0, memory_.subspan(0, 4096)},
                                  {78, file_, 4096, memory_.subspan(4096, 4096)}};
  ASSERT_EQ(backend().submit(requests), 2u);
  backend().refuse_next_submit();
  Completion completions[2];
  ASSERT_EQ(backend().collect(completions, 0ns), 2u);
  expect_whole(completions[0], 0, 4096);
  EXPECT_EQ(completions[1].tag, 78u);
  EXPECT_EQ(completions[1].error, Errc::kBackendUnavailable);
  EXPECT_EQ(backend().in_flight(), 0u);
  expect_whole(read(0, 4096), 0, 4096);
}

TEST_F(Shell, ARetryThatCannotBeStartedIsTriedAgainWhereItsErrorHasNoRoom) {
  backend().script({-EAGAIN, -EAGAIN});
  const ReadRequest requests[] = {{77, file_, 0, memory_.subspan(0, 4096)},
                                  {77, file_, 0, memory_.subspan(0, 4096)}};
  ASSERT_EQ(backend().submit(requests), 2u);
  Completion completions[2];
  ASSERT_EQ(backend().collect(completions, 0ns), 0u);
  backend().refuse_next_submit();
  ASSERT_EQ(backend().collect(std::span(completions).first(1), 0ns), 1u);
  EXPECT_EQ(completions[0].error, Errc::kBackendUnavailable);
  expect_whole(finish(), 0, 4096);
  EXPECT_EQ(backend().in_flight(), 0u);
}

TEST_F(Shell, ReportsAnEarlyEndOfFile) {
  backend().script({1024, 0});
  const Completion completion = read(0, 4096);
  EXPECT_EQ(completion.error, Errc::kEndOfFile);
  EXPECT_EQ(completion.bytes, 0u);
  EXPECT_EQ(backend().in_flight(), 0u);
  EXPECT_EQ(backend().counters().bytes, 0u);
}

TEST_F(Shell, GivesUpOnReadsThatMakeNoProgress) {
  backend().script({700, 188, 188, 188, 188, 188, 188, 188, 188, 188, 188, 188, 188});
  EXPECT_EQ(read(0, 4096).error, Errc::kEndOfFile);
  EXPECT_LT(backend().reads().size(), 12u);
}

TEST_F(Shell, RetriesAnInterruptedReadHoweverOften) {
  backend().script({-EINTR, -EINTR, -EINTR});
  expect_whole(read(0, 512), 0, 512);
  EXPECT_EQ(backend().counters().retried, 3u);
}

TEST_F(Shell, RetriesABusyReadOnlyAtTheNextCollect) {
  backend().script({-EAGAIN});
  start(0, 512);
  Completion completion;
  EXPECT_EQ(backend().collect({&completion, 1}, 0ns), 0u);
  EXPECT_EQ(backend().reads().size(), 1u);
  EXPECT_EQ(backend().in_flight(), 1u);
  expect_whole(finish(), 0, 512);
  EXPECT_EQ(backend().reads().size(), 2u);
}

class ShellWithAPause : public testing::Test {
 protected:
  void start(std::chrono::nanoseconds busy_pause) {
    backend_.emplace(
        std::vector<ScriptedBackend::File>{{.path = "f", .info = {.bytes = 4096}, .seed = kSeed}},
        StorageLimits{.busy_pause = busy_pause});
    backend_->script({-EAGAIN});
    const ReadRequest request{0, backend_->open("f"), 0, memory_.subspan(0, 512)};
    backend_->submit({&request, 1});
  }

  AlignedMemory memory_{4096};
  Completion completion_{};
  std::optional<ScriptedBackend> backend_;
};

TEST_F(ShellWithAPause, DoesNotTryABusyReadAgainForACallerThatOnlyPolls) {
  start(1h);
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(backend_->collect({&completion_, 1}, 0ns), 0u);
  EXPECT_EQ(backend_->reads().size(), 1u);
}

TEST_F(ShellWithAPause, TriesABusyReadAgainWhenTheWaitHasLastedAsLong) {
  start(kBusyPause);
  EXPECT_EQ(backend_->collect({&completion_, 1}, 1h), 0u);
  EXPECT_EQ(backend_->collect({&completion_, 1}, 1h), 0u);  // ends with the pause
  EXPECT_EQ(backend_->reads().size(), 2u);
  ASSERT_EQ(backend_->collect({&completion_, 1}, 1h), 1u);
  EXPECT_FALSE(completion_.error);
}

TEST_F(ShellWithAPause, CollectsOtherReadsMeanwhile) {
  start(1h);
  EXPECT_EQ(backend_->collect({&completion_, 1}, 1h), 0u);
  const ReadRequest request{1, FileId{0}, 512, memory_.subspan(512, 512)};
  backend_->submit({&request, 1});
  ASSERT_EQ(backend_->collect({&completion_, 1}, 1h), 1u);
  EXPECT_EQ(completion_.tag, 1u);
  EXPECT_EQ(backend_->in_flight(), 1u);
}

TEST_F(Shell, ABusyReadIsNotTakenForOneThatMakesNoProgress) {
  // Twelve times busy, then twice short at the same place.
  backend().script({-EAGAIN, -EAGAIN, -EAGAIN, -EAGAIN, -EAGAIN, -EAGAIN, -EAGAIN, -EAGAIN, -EAGAIN, -EAGAIN,
                    -EAGAIN, -EAGAIN, 100, 100});
  expect_whole(read(0, 512), 0, 512);
}

TEST_F(Shell, GivesUpOnAReadThatStaysBusy) {
  backend().script_forever(-EAGAIN);
  EXPECT_EQ(read(0, 512).error, std::errc::resource_unavailable_try_again);
  EXPECT_EQ(backend().reads().size(), 1000u);
}

TEST_F(Shell, ReportsAnErrorOfTheDriveAsItIs) {
  backend().script({-EIO});
  const Completion completion = read(0, 512);
  EXPECT_EQ(completion.error, std::errc::io_error);
  EXPECT_EQ(completion.tag, 77u);
  EXPECT_EQ(backend().reads().size(), 1u);
}

TEST_F(Shell, GoesOnAfterAFailedRead) {
  backend().script({-EIO});
  read(0, 512);
  expect_whole(read(512, 1024), 512, 1024);
}

TEST_F(Shell, RefusesAStaleCompletion) {
  read(0, 512);
  backend().bring(backend().reads()[0].id, 512);
  EXPECT_THROW(finish(), Error);
}

TEST_F(Shell, RefusesACompletionOfAnEarlierTryOfARead) {
  backend().script({-EAGAIN});
  start(0, 512);
  Completion completion;
  ASSERT_EQ(backend().collect({&completion, 1}, 0ns), 0u);
  backend().bring(backend().reads()[0].id, 512);
  EXPECT_THROW(backend().collect({&completion, 1}, 0ns), Error);
}

TEST_F(Shell, RefusesAForeignCompletion) {
  start(0, 512);
  backend().bring(0x123456789, 512);
  std::array<Completion, 4> completions;
  try {
    backend().collect(completions, 0ns);
    FAIL() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kInternal);
    EXPECT_THAT(error.what(), HasSubstr("[scripted]"));
  }
}

TEST_F(Shell, RefusesMoreBytesThanItAskedFor) {
  backend().withhold_next();
  start(0, 512);
  backend().bring(backend().reads()[0].id, 513);
  EXPECT_THROW(finish(), Error);
}

TEST(ShellWithDirectFile, DropsDirectOnceAndTriesEveryRefusedReadAgain) {
  ScriptedBackend backend({{.path = "direct", .info = {.bytes = 4096}, .seed = kSeed, .direct = true}});
  const FileId file = backend.open("direct");
  const AlignedMemory memory(4096);
  std::vector<ReadRequest> requests;
  for (std::size_t i = 0; i < 4; ++i) requests.push_back({i, file, i * 1024, memory.subspan(i * 1024, 1024)});
  backend.submit(requests);
  std::array<Completion, 8> completions;
  std::size_t finished = 0;
  for (int i = 0; i < 10 && finished < 4; ++i) {
    finished += backend.collect(std::span(completions).subspan(finished), 0ns);
  }
  ASSERT_EQ(finished, 4u);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_FALSE(completions[i].error) << completions[i].error.message();
  EXPECT_EQ(backend.drops(), 1u);
  for (std::size_t i = 0; i < 4096; ++i) ASSERT_EQ(memory.span()[i], pattern_byte(kSeed, i));
}

TEST(ShellWithDirectFile, EndsTheReadWithTheRefusalWhereDirectIsRequired) {
  ScriptedBackend backend({{.path = "direct", .info = {.bytes = 4096}, .direct = true}});
  backend.require_direct();
  const FileId file = backend.open("direct");
  const AlignedMemory memory(4096);
  const ReadRequest request{0, file, 0, memory.span()};
  backend.submit({&request, 1});
  Completion completion;
  ASSERT_EQ(backend.collect({&completion, 1}, 0ns), 1u);
  EXPECT_EQ(completion.error, Errc::kRequirementNotMet);
}

TEST_F(Shell, ReportsAReadThatIsInvalidForAnotherReason) {
  backend().script({-EINVAL, -EINVAL});
  EXPECT_EQ(read(0, 512).error, std::errc::invalid_argument);
  EXPECT_EQ(backend().drops(), 1u);
}

TEST_F(Shell, RefusesToReadExactlyBesideOtherReads) {
  start(0, 512);
  std::vector<std::byte> destination(8);
  EXPECT_THROW(read_exactly(backend(), file_, 0, destination), Error);
}

TEST_F(Shell, NamesFileAndPlaceOfAFailedExactRead) {
  backend().script({-EIO});
  std::vector<std::byte> destination(8);
  try {
    read_exactly(backend(), file_, 1030, destination);
    FAIL() << "was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kReadFailed);
    EXPECT_EQ(error.cause(), std::errc::io_error);
    EXPECT_EQ(error.place().file, "scripted");
    EXPECT_EQ(error.place().offset, 1024u);
    EXPECT_EQ(error.place().backend, "scripted");
  }
}

TEST_F(Shell, ReportsAFileThatGrewShorterDuringAnExactRead) {
  backend().script({0});
  std::vector<std::byte> destination(8);
  try {
    read_exactly(backend(), file_, 0, destination);
    FAIL() << "was read";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kEndOfFile);
  }
}

TEST_F(Shell, IsRefusedInAChildProcess) {
  const auto in_child = [&] {
    Completion completion;
    const ReadRequest request{0, file_, 0, memory_.subspan(0, 512)};
    int refusals = 0;
    const auto count = [&](auto call) {
      try {
        call();
      } catch (const Error&) {
        ++refusals;
      }
    };
    count([&] { backend().submit({&request, 1}); });
    count([&] { backend().collect({&completion, 1}, 0ns); });
    count([&] { backend().open("x"); });
    std::_Exit(refusals);
  };
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(3), "");
}

TEST(ShellLimits, NeedRoomForARequest) { EXPECT_THROW(ScriptedBackend({}, {.max_in_flight = 0}), Error); }

TEST(FaultyBackend, EndsEveryReadWithItsBytesOrAnError) {
  auto files = std::make_shared<MemoryFiles>();
  files->emplace("f", pattern_bytes(1, 100'000));
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    FaultyBackend backend(files, seed,
                          {.short_read = 0.3, .interrupted = 0.2, .busy = 0.2, .io_error = 0.05, .late = 0.5},
                          {.max_in_flight = 8}, 16);
    const FileId file = backend.open("f");
    std::vector<std::byte> memory(100 * 1024);
    const std::span<std::byte> aligned(
        memory.data() + (16 - reinterpret_cast<std::uintptr_t>(memory.data()) % 16) % 16, 99 * 1024);
    std::size_t submitted = 0;
    std::size_t ended = 0;
    while (ended < 90) {
      if (submitted < 90) {
        const ReadRequest request{submitted, file, submitted * 1024, aligned.subspan(submitted * 1024, 1024)};
        submitted += backend.submit({&request, 1});
      }
      Completion completion;
      if (backend.collect({&completion, 1}, 0ns) == 0) continue;
      ++ended;
      if (completion.error) {
        EXPECT_EQ(completion.error, std::errc::io_error);
        continue;
      }
      ASSERT_EQ(completion.bytes, 1024u);
      for (std::size_t i = completion.tag * 1024; i < (completion.tag + 1) * 1024; ++i) {
        ASSERT_EQ(aligned[i], pattern_byte(1, i));
      }
    }
    EXPECT_GT(backend.faults(), 0u);
  }
}

TEST(FaultyBackend, DoesTheSameForTheSameSeed) {
  auto files = std::make_shared<MemoryFiles>();
  files->emplace("f", pattern_bytes(1, 64 * 1024));
  const auto order = [&](std::uint64_t seed) {
    FaultyBackend backend(files, seed, {.short_read = 0.3, .io_error = 0.1, .late = 0.5});
    const FileId file = backend.open("f");
    std::vector<std::byte> memory(64 * 1024);
    for (std::size_t i = 0; i < 64; ++i) {
      const ReadRequest request{i, file, i * 1024, std::span(memory).subspan(i * 1024, 1024)};
      backend.submit({&request, 1});
    }
    std::vector<std::pair<std::uint64_t, int>> ends;
    while (backend.in_flight() > 0) {
      Completion completion;
      if (backend.collect({&completion, 1}, 0ns) > 0)
        ends.emplace_back(completion.tag, completion.error.value());
    }
    return ends;
  };
  EXPECT_EQ(order(3), order(3));
  EXPECT_NE(order(3), order(4));
}

}  // namespace
}  // namespace tierstream
