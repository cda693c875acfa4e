#include "tools/link_probe.h"

#include <gmock/gmock.h>
#include <tierstream/tiers/cpu_device.h>

#include <filesystem>
#include <map>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "support/byte_units.h"
#include "support/test_files.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using testing::Each;
using testing::EndsWith;
using testing::Field;
using testing::HasSubstr;

constexpr std::uint64_t kFileBytes = 16 * kMiB;
constexpr std::uint64_t kCopyBytes = 2 * kMiB;

/// Measured, with quartiles on both sides of the median; or refused with a reason.
void expect_plausible(const LinkRate& rate) {
  if (!rate.refusal.empty()) {
    EXPECT_EQ(rate.bytes_per_second, 0);
    return;
  }
  EXPECT_GT(rate.low_quartile, 0);
  EXPECT_GE(rate.bytes_per_second, rate.low_quartile);
  EXPECT_GE(rate.high_quartile, rate.bytes_per_second);
  EXPECT_NE(rate.how, "");
}

void expect_measured(const LinkRate& rate) {
  EXPECT_EQ(rate.refusal, "");
  expect_plausible(rate);
}

/// The CPU device behind a link: memory is registered, as for a GPU, or refused.
class LinkedDevice final : public Device {
 public:
  explicit LinkedDevice(std::string registration_refusal = {}) : refusal_(std::move(registration_refusal)) {}

  std::uint64_t room_bytes = std::uint64_t{1} << 40;
  std::size_t registered_bytes = 0;
  int registrations = 0;

  const DeviceTraits& traits() const override { return traits_; }
  DeviceMemory allocate(std::size_t bytes) override { return cpu_->allocate(bytes); }
  MemoryRoom memory_room() override { return {room_bytes, "the test"}; }
  HostRegistration register_host(std::span<std::byte> memory, std::string& refusal, HostAccess) override {
    refusal = refusal_;
    if (!refusal.empty()) return {};
    registered_bytes += memory.size();
    ++registrations;
    return {*this, memory};
  }
  std::unique_ptr<Event> make_event() override { return cpu_->make_event(); }
  std::unique_ptr<Event> make_timed_event() override { return cpu_->make_timed_event(); }
  std::unique_ptr<CopyQueue> make_copy_queue(std::function<void()> on_progress) override {
    return cpu_->make_copy_queue(std::move(on_progress));
  }
  void download(std::span<std::byte> destination, const std::byte* source, Stream stream) override {
    cpu_->download(destination, source, stream);
  }
  void fill(std::span<std::byte> memory, std::byte value, Stream stream) override {
    cpu_->fill(memory, value, stream);
  }

 private:
  void free_memory(std::byte*, std::size_t) noexcept override {}  // what `allocate` gives is the CPU device's
  void unregister_host(std::span<std::byte> memory) noexcept override { registered_bytes -= memory.size(); }

  const DeviceTraits traits_ = {.name = "linked"};
  const std::shared_ptr<Device> cpu_ = make_cpu_device();
  const std::string refusal_;
};

class StorageProbeTest : public testing::Test {
 protected:
  TemporaryDirectory directory_;
  std::string file_ = directory_.write("file", pattern_bytes(1, kFileBytes));
};

TEST_F(StorageProbeTest, MeasuresDiskAndPageCacheAndTellsHowFarItIs) {
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> last_progress;
  const StorageRates rates = probe_storage(
      file_, {.rounds = 2, .progress = [&](const std::string& what, std::uint64_t done, std::uint64_t total) {
                EXPECT_LE(done, total);
                last_progress[what] = {done, total};
              }});
  expect_plausible(rates.disk_direct);
  expect_plausible(rates.disk_buffered);
  expect_measured(rates.page_cache_one_thread);
  expect_measured(rates.page_cache);
  EXPECT_GE(rates.page_cache.bytes_per_second, rates.page_cache_one_thread.bytes_per_second);
  EXPECT_GE(rates.disk(), rates.disk_direct.bytes_per_second);
  EXPECT_GE(rates.disk(), rates.disk_buffered.bytes_per_second);
  if (rates.disk_buffered.refusal.empty()) {  // else the temporary directory lies in memory
    EXPECT_GT(rates.disk(), 0);
    EXPECT_TRUE(last_progress.contains("disk"));
    EXPECT_EQ(rates.direct_sweep.empty(), !rates.disk_direct.refusal.empty());
    EXPECT_THAT(rates.direct_sweep, Each(Field(&LinkRate::how, EndsWith(" direct"))));
  }
  EXPECT_TRUE(last_progress.contains("page cache"));
  for (const auto& [what, bytes] : last_progress) EXPECT_EQ(bytes.first, bytes.second) << what;
}

TEST_F(StorageProbeTest, IsStoppedBetweenReadings) {
  std::stop_source source;
  int calls = 0;
  const auto stop_at_once = [&](const std::string&, std::uint64_t, std::uint64_t) {
    ++calls;
    source.request_stop();
  };
  expect_throws(Errc::kCancelled, HasSubstr("stopped"),
                [&] { probe_storage(file_, {.progress = stop_at_once, .stop = source.get_token()}); });
  EXPECT_EQ(calls, 1);
}

TEST_F(StorageProbeTest, AMissingFileIsAnErrorThatNamesIt) {
  const std::string missing = directory_.path("missing");
  expect_throws(Errc::kOpenFailed, HasSubstr(missing), [&] { probe_storage(missing); });
}

TEST_F(StorageProbeTest, DirectReadsOfSomeFilesDoNotChangeThem) {
  const std::vector<std::string> files = {directory_.write("small", pattern_bytes(2, 5000)), file_};
  const auto modified = std::filesystem::last_write_time(file_);
  std::pair<std::uint64_t, std::uint64_t> progress;
  const LinkRate rate =
      probe_reads(files, {.progress = [&](const std::string&, std::uint64_t done, std::uint64_t total) {
                    progress = {done, total};
                  }});
  expect_plausible(rate);
  if (rate.refusal.empty()) {
    EXPECT_THAT(rate.how, EndsWith(" direct"));
    EXPECT_GT(progress.first, 0u);
    EXPECT_EQ(progress.first, progress.second);
    EXPECT_EQ(progress.first % kFileBytes, 0u) << "pieces as large as the largest file";
  }
  EXPECT_EQ(std::filesystem::last_write_time(file_), modified);
}

TEST_F(StorageProbeTest, DirectReadsAreStoppedAndNameAFileThatIsMissing) {
  std::stop_source source;
  source.request_stop();
  expect_throws(Errc::kCancelled, HasSubstr("stopped"),
                [&] { probe_reads(std::vector{file_}, {.stop = source.get_token()}); });
  const std::string missing = directory_.path("missing");
  expect_throws(Errc::kOpenFailed, HasSubstr(missing), [&] { probe_reads(std::vector{missing}); });
  EXPECT_NE(probe_reads({}).refusal, "");
}

TEST(DeviceProbe, TheCpuDeviceCopiesAndNeedsNoRegistration) {
  const std::shared_ptr<Device> device = make_cpu_device();
  const DeviceRates rates = probe_device(*device, {.rounds = 2, .copy_bytes = kCopyBytes});
  expect_measured(rates.host_to_device);
  expect_measured(rates.device_to_host);
  EXPECT_EQ(rates.host_to_device.how, "memcpy of 2.00 MiB by one thread");
  EXPECT_EQ(rates.registration.refusal, "the cpu device needs none");
}

TEST(DeviceProbe, RegistersInEachRoundAndGivesAllBack) {
  LinkedDevice device;
  const DeviceRates rates = probe_device(device, {.rounds = 3, .copy_bytes = kCopyBytes});
  expect_measured(rates.host_to_device);
  expect_measured(rates.device_to_host);
  expect_measured(rates.registration);
  EXPECT_THAT(rates.host_to_device.how, EndsWith("pinned"));
  EXPECT_EQ(device.registrations, 1 + 1 + 3) << "for the copies, to warm up, and three measured";
  EXPECT_EQ(device.registered_bytes, 0u);
}

TEST(DeviceProbe, ARefusedRegistrationIsToldAndItsCopiesAreCalledPageable) {
  LinkedDevice device("no more of it");
  const DeviceRates rates = probe_device(device, {.rounds = 2, .copy_bytes = kCopyBytes});
  expect_measured(rates.host_to_device);
  EXPECT_THAT(rates.host_to_device.how, EndsWith("pageable"));
  EXPECT_EQ(rates.registration.refusal, "no more of it");
}

TEST(DeviceProbe, TakesAQuarterOfALittleRoom) {
  LinkedDevice device;
  device.room_bytes = kCopyBytes;
  EXPECT_EQ(probe_device(device, {.rounds = 1, .copy_bytes = kCopyBytes}).host_to_device.how,
            "512 KiB a copy, pinned");
}

}  // namespace
}  // namespace tierstream
