#include "tools/raw_reader.h"

#include <gmock/gmock.h>

#include <array>

#include "support/byte_units.h"
#include "support/test_files.h"
#include "support/thrown.h"
#include "tools/page_cache.h"

namespace tierstream {
namespace {

using testing::Each;
using testing::Gt;
using testing::HasSubstr;
using testing::SizeIs;

constexpr std::uint64_t kBytes = 3 * kMiB + 100;  // the last read ends with the file

class RawReaderTest : public testing::Test {
 protected:
  TemporaryDirectory directory_;
  std::string file_ = directory_.write("file", pattern_bytes(1, kBytes));
  std::vector<RawReading> buffered_ = {{RawReading::Way::kThreads, false, 4, kMiB},
                                       {RawReading::Way::kIoUring, false, 4, kMiB}};
};

TEST_F(RawReaderTest, ReadsAWholeFileEitherWay) {
  for (const RawReading& reading : buffered_) {
    if (!RawReader::available(reading)) continue;
    EXPECT_GT(RawReader(file_, reading).read({0, kBytes}), 0) << describe(reading);
  }
}

TEST_F(RawReaderTest, ReadsEachOfSeveralRanges) {
  for (const RawReading& reading : buffered_) {
    if (!RawReader::available(reading)) continue;
    const std::array all_there = {ByteRange{4096, 8192}, ByteRange{2 * kMiB, kBytes}};
    EXPECT_GT(RawReader(file_, reading).read(all_there), 0) << describe(reading);
    for (const bool is_last : {false, true}) {
      std::array ranges = {ByteRange{0, 4096}, ByteRange{kMiB, 2 * kMiB}, ByteRange{0, 4096}};
      ranges[is_last ? 2 : 1] = {2 * kMiB, 4 * kMiB};  // of which the second MiB is not there
      expect_throws(Errc::kReadFailed, HasSubstr("3145728"), [&] { RawReader(file_, reading).read(ranges); });
    }
  }
}

TEST_F(RawReaderTest, AFileThatEndsEarlyIsAnError) {
  for (const RawReading& reading : buffered_) {
    if (!RawReader::available(reading)) continue;
    expect_throws(Errc::kReadFailed, HasSubstr("short read"), [&] {
      RawReader(file_, reading).read({0, 4 * kMiB});
    });
  }
}

TEST_F(RawReaderTest, AStoppedReadingIsNoReading) {
  std::stop_source source;
  source.request_stop();
  for (const RawReading& reading : buffered_) {
    if (!RawReader::available(reading)) continue;
    expect_throws(Errc::kCancelled, HasSubstr(file_), [&] {
      RawReader(file_, reading).read({0, kBytes}, source.get_token());
    });
  }
}

TEST_F(RawReaderTest, ASweepTimesEveryReadingInEachRoundAndPutsTheFastestFirst) {
  std::size_t prepared = 0;
  std::size_t runs = 0;
  const RawSweep sweep = sweep_cached(file_, {0, kBytes},
                                      {.memory_bytes = 4 * kMiB,  // no two reads share any
                                       .rounds = 2,
                                       .run = {.prepare =
                                                   [&] {
                                                     make_warm(file_);
                                                     ++prepared;
                                                   }},
                                       .after_run = [&](std::size_t done, std::size_t) { runs = done; }});
  ASSERT_THAT(sweep.timings, SizeIs(Gt(1u)));
  EXPECT_EQ(sweep.bytes, kBytes);
  EXPECT_EQ(prepared, 2 * sweep.timings.size());
  EXPECT_EQ(runs, prepared);
  double before = 0;
  for (const RawTiming& timing : sweep.timings) {
    EXPECT_THAT(timing.seconds, SizeIs(2));
    EXPECT_THAT(timing.seconds, Each(Gt(0.0)));
    EXPECT_GE(quantile(timing.seconds, 0.5), before);
    before = quantile(timing.seconds, 0.5);
  }
  EXPECT_THAT(best_of_each_way(sweep), SizeIs(1)) << "all of them are threads";
}

}  // namespace
}  // namespace tierstream
