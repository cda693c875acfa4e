#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <tierstream/io/cached_pages.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/tiers/cpu_device.h>
#include <tierstream/tiers/page_cache.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/byte_units.h"
#include "support/test_files.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using ::testing::HasSubstr;

std::uint64_t locked_by_process() {
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key;) {
    std::uint64_t kib = 0;
    if (key == "VmLck:" && status >> kib) return kib * 1024;
  }
  return 0;
}

/// Under a sanitizer mlock does nothing and says that it did.
bool locks_lock() {
  std::vector<std::byte> memory(3 * 4096);
  if (::mlock(memory.data(), memory.size()) != 0) return false;
  const bool locks = locked_by_process() != 0;
  ::munlock(memory.data(), memory.size());
  return locks;
}

/// Four layers of 5 MiB in one file.
class FilePageCacheTest : public ::testing::Test {
 protected:
  FilePageCacheTest() {
    const std::unique_ptr<StorageBackend> storage = make_file_backend();
    table_.files.push_back({path_, storage->info(storage->open(path_))});
    for (std::uint64_t i = 0; i < kLayers; ++i) {
      table_.layers.push_back({fmt::format("l.{}", i),
                               {{"w",
                                 DType::kU8,
                                 {static_cast<std::int64_t>(kLayerBytes)},
                                 kLayerBytes,
                                 FileExtent{0, i * kLayerBytes}}}});
    }
  }

  void open(std::uint64_t page_cache_bytes, bool is_host = true, bool locks = true) {
    plan_ = make_plan(table_, {.gpu = kGpuBytes, .pinned = 8 * kMiB, .page_cache = page_cache_bytes}, {},
                      {.is_host = is_host, .layer_seconds = {}});
    pages_ = std::make_unique<FilePageCache>(
        table_, plan_, *device_, FilePageCache::Budgets{budget_, pinned_}, locks,
        [this] {
          ++progress_;
          progress_.notify_all();
        },
        std::exchange(pages_, nullptr).get());
    pages_->begin();
  }
  void wait_for(std::uint32_t layer) {
    for (;;) {
      const int seen = progress_;
      if (pages_->state(layer) != PageCache::State::kComing) return;
      progress_.wait(seen);
    }
  }

  /// Waits for all, and returns the bytes that were read for them.
  std::uint64_t bring_all() {
    std::uint64_t read = 0;
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      wait_for(layer);
      EXPECT_EQ(pages_->state(layer), PageCache::State::kReady);
      read += pages_->take_read_bytes(layer);
    }
    return read;
  }
  /// Of the file; none where the kernel does not say.
  std::optional<std::uint64_t> cached_bytes() {
    const int file = ::open(path_.c_str(), O_RDONLY);
    const std::optional<CachedPages> pages = cached_pages(file, 0, kLayers * kLayerBytes);
    ::close(file);
    return pages ? std::optional(pages->cached * 4096) : std::nullopt;
  }
  /// False: the kernel does not drop these pages, or does not say so.
  bool drop_pages() {
    const int file = ::open(path_.c_str(), O_RDONLY);
    ::fdatasync(file);
    ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    ::close(file);
    return cached_bytes() == 0;
  }

  static constexpr std::uint64_t kGpuBytes = 16 * kMiB;  // three slots, and hardly any resident
  static constexpr std::uint64_t kLayers = 4;
  static constexpr std::uint64_t kLayerBytes = 5 * kMiB;
  const TemporaryDirectory directory_;
  const std::vector<std::byte> content_ = pattern_bytes(7, kLayers* kLayerBytes);
  const std::string path_ = directory_.write("model", content_);
  LayerTable table_;
  Plan plan_;
  const std::shared_ptr<Device> device_ = make_cpu_device();
  TierBudget budget_{"page_cache", 1u << 30};
  TierBudget pinned_{"pinned", 1u << 30};
  std::atomic<int> progress_ = 0;
  std::unique_ptr<FilePageCache> pages_;
};

TEST_F(FilePageCacheTest, BringsEveryLayerAndHoldsItsBudget) {
  open(64 * kMiB);
  EXPECT_EQ(budget_.used_bytes(), kLayers * kLayerBytes);
  std::uint64_t read = 0;
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    wait_for(layer);
    ASSERT_EQ(pages_->state(layer), PageCache::State::kReady);
    const std::byte* const mapped = pages_->address(0, layer * kLayerBytes);
    EXPECT_EQ(std::memcmp(mapped, content_.data() + layer * kLayerBytes, kLayerBytes), 0);
    read += pages_->take_read_bytes(layer);
  }
  EXPECT_LE(read, kLayers * kLayerBytes) << "the file was just written: its pages may be there";
  EXPECT_EQ(pages_->take_read_bytes(0), 0u) << "counted once";
  const PageCacheStatus status = pages_->status();
  EXPECT_EQ(status.locked_bytes == kLayers * kLayerBytes, status.lock_refusal.empty());
  EXPECT_EQ(status.registered_bytes, kLayers * kLayerBytes);
  pages_.reset();
  EXPECT_EQ(budget_.used_bytes(), 0u);
}

TEST_F(FilePageCacheTest, CutsCopiesWhereRunsThatWereTakenOverEnd) {
  open(4 * kMiB, false);
  bring_all();
  open(20 * kMiB, false);
  std::size_t more = 0;
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    std::vector<MappedCopy> copies = plan_.layers[layer].mapped_copies;
    pages_->split_at_edges(copies);
    more += copies.size() - plan_.layers[layer].mapped_copies.size();
  }
  EXPECT_GT(more, 0u);
}

TEST_F(FilePageCacheTest, KeepsOnlyWhatThePlanSays) {
  open(10 * kMiB, false);
  EXPECT_EQ(budget_.used_bytes(), plan_.kept.bytes());
  EXPECT_LE(budget_.used_bytes(), 10 * kMiB);
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
    wait_for(layer);
    for (const MappedCopy& copy : plan_.layers[layer].mapped_copies) {
      EXPECT_EQ(
          std::memcmp(pages_->address(copy.file, copy.offset), content_.data() + copy.offset, copy.bytes), 0);
    }
  }
}

TEST_F(FilePageCacheTest, NamesTheFileOfAMappedAddress) {
  EXPECT_EQ(mapped_file_at(content_.data()), nullptr);
  open(64 * kMiB);
  const std::byte* const inside = pages_->address(0, kMiB);
  EXPECT_EQ(mapped_file_at(inside), path_);
  pages_.reset();
  EXPECT_EQ(mapped_file_at(inside), nullptr);
}

TEST_F(FilePageCacheTest, NoticesAFileThatWasWrittenTo) {
  open(64 * kMiB);
  EXPECT_NO_THROW(pages_->check_files());
  const auto modified = std::filesystem::last_write_time(path_);
  std::filesystem::last_write_time(path_, modified + std::chrono::seconds(1));
  expect_throws(Errc::kFileChanged, HasSubstr(path_), [&] { pages_->check_files(); });
}

TEST_F(FilePageCacheTest, GoesOnWithTheOldContentOfAFileReplacedByRenaming) {
  open(64 * kMiB);
  directory_.write("other", pattern_bytes(8, kLayers * kLayerBytes));
  std::filesystem::rename(directory_.path("other"), path_);
  EXPECT_NO_THROW(pages_->check_files());
  wait_for(3);
  EXPECT_EQ(std::memcmp(pages_->address(0, 3 * kLayerBytes), content_.data() + 3 * kLayerBytes, kLayerBytes),
            0);
}

TEST_F(FilePageCacheTest, RefusesAFileThatIsNotTheOneOfTheTable) {
  directory_.write("model", pattern_bytes(9, kLayers * kLayerBytes + 1));
  expect_throws(Errc::kFileChanged, ::testing::AllOf(HasSubstr(path_), HasSubstr("expected")),
                [&] { open(64 * kMiB); });
  EXPECT_EQ(budget_.used_bytes(), 0u);
}

TEST_F(FilePageCacheTest, TakesOverWhatBothPlansKeep) {
  if (!drop_pages()) GTEST_SKIP() << "the kernel does not drop these pages, or does not say so";
  const bool locks = locks_lock();
  std::uint64_t kept = 0;
  std::map<std::uint64_t, const std::byte*> addresses;
  for (const std::uint64_t budget : {6u, 12u, 8u, 20u, 2u}) {
    open(budget * kMiB, false);
    EXPECT_EQ(budget_.used_bytes(), plan_.kept.bytes());
    const std::uint64_t added = plan_.kept.bytes() - std::min(plan_.kept.bytes(), kept);
    const std::uint64_t read = bring_all();
    EXPECT_EQ(read, added) << budget;
    kept = plan_.kept.bytes();
    const PageCacheStatus status = pages_->status();
    EXPECT_EQ(status.registered_bytes, kept);
    EXPECT_EQ(cached_bytes(), kept) << "others are dropped";
    if (status.lock_refusal.empty()) {
      EXPECT_EQ(status.locked_bytes, kept);
      if (locks) {
        EXPECT_EQ(locked_by_process(), kept) << "others are unlocked";
      }
    }
    for (std::uint32_t layer = 0; layer < kLayers; ++layer) {
      EXPECT_TRUE(pages_->is_registered(layer));
      std::vector<MappedCopy> copies = plan_.layers[layer].mapped_copies;
      pages_->split_at_edges(copies);
      std::uint64_t bytes = 0;
      for (const MappedCopy& copy : copies) {
        const std::byte* const mapped = pages_->address(copy.file, copy.offset);
        EXPECT_EQ(std::memcmp(mapped, content_.data() + copy.offset, copy.bytes), 0);
        EXPECT_EQ(addresses.try_emplace(copy.offset, mapped).first->second, mapped) << "where it was";
        bytes += copy.bytes;
      }
      EXPECT_EQ(bytes, plan_.layers[layer].mapped_bytes());
    }
  }
  pages_->drop();
  EXPECT_EQ(budget_.used_bytes(), 0u);
  EXPECT_EQ(cached_bytes(), 0u);
}

TEST_F(FilePageCacheTest, FindsPagesThatTheSystemDroppedAndReadsThemAgain) {
  open(64 * kMiB, true, false);
  for (std::uint32_t layer = 0; layer < kLayers; ++layer) wait_for(layer);
  EXPECT_EQ(pages_->status().lock_refusal, "not asked for");
  auto* const mapped = const_cast<std::byte*>(pages_->address(0, 0));
  for (std::uint64_t times = 1; times <= 2; ++times) {
    ::madvise(mapped, kLayers * kLayerBytes, MADV_DONTNEED);  // what is mapped is not dropped
    if (!drop_pages()) GTEST_SKIP() << "the kernel does not drop these pages, or does not say so";
    pages_->find_lost();
    while (pages_->status().lost_bytes < times * kLayers * kLayerBytes) std::this_thread::yield();
    EXPECT_LE(pages_->status().lost_bytes, times * kLayers * kLayerBytes);
    EXPECT_EQ(std::memcmp(mapped, content_.data(), content_.size()), 0);
  }
}

}  // namespace
}  // namespace tierstream
