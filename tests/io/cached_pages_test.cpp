// What the kernel says about the page cache, by cachestat and by mincore alone.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <tierstream/io/cached_pages.h>
#include <tierstream/io/error.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>

#include "posix_files.h"
#include "support/forbid.h"
#include "support/test_files.h"
#include "tools/page_cache.h"

namespace tierstream {
namespace {

constexpr long kCachestatCall = 451;
const auto kPage = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));

FileDescriptor open_file(const std::string& path) {
  return FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
}

void expect_cached(const std::string& path, std::uint64_t offset, std::uint64_t bytes, std::uint64_t cached,
                   std::uint64_t total) {
  const auto pages = cached_pages(open_file(path).get(), offset, bytes);
  ASSERT_TRUE(pages);
  EXPECT_EQ(pages->cached, cached) << bytes << " bytes at " << offset;
  EXPECT_EQ(pages->total, total) << bytes << " bytes at " << offset;
  EXPECT_EQ(pages->all(), cached == total);
}

/// Brings the pages of a range into the page cache and no others.
void read_into_cache(const std::string& path, std::uint64_t offset, std::uint64_t bytes) {
  const FileDescriptor file = open_file(path);
  ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_RANDOM);
  std::vector<std::byte> buffer(bytes);
  ASSERT_EQ(::pread(file.get(), buffer.data(), bytes, static_cast<off_t>(offset)),
            static_cast<ssize_t>(bytes));
}

class CachedPagesOfAFile : public testing::TestWithParam<bool> {
 protected:
  static constexpr std::uint64_t kPages = 10;

  void SetUp() override {
    path_ = directory_.write("file", pattern_bytes(1, kPages * kPage + 100));
    try {
      make_cold(path_);
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }

  /// In a child process, since a system call once forbidden stays so.
  void in_child(const std::function<void()>& body) {
    const auto whole = [&] {
      if (!GetParam()) forbid(kCachestatCall);
      body();
      std::_Exit(HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(whole(), testing::ExitedWithCode(0), "");
  }

  TemporaryDirectory directory_;
  std::string path_;
};

INSTANTIATE_TEST_SUITE_P(Calls, CachedPagesOfAFile, testing::Bool(),
                         [](const auto& call) { return call.param ? "cachestat" : "mincore"; });

TEST_P(CachedPagesOfAFile, AreCountedInAnyRange) {
  read_into_cache(path_, 2 * kPage, 3 * kPage);
  in_child([&] {
    expect_cached(path_, 0, kPages * kPage + 100, 3, kPages + 1);
    expect_cached(path_, 2 * kPage, 3 * kPage, 3, 3);
    expect_cached(path_, 2 * kPage - 1, 1, 0, 1);
    expect_cached(path_, 2 * kPage - 1, 2, 1, 2);
    expect_cached(path_, 5 * kPage - 1, 2, 1, 2);
    expect_cached(path_, 2 * kPage + 7, 0, 0, 0);
  });
}

TEST_P(CachedPagesOfAFile, EndWithTheFile) {
  make_warm(path_);
  in_child([&] {
    expect_cached(path_, kPages * kPage, 100, 1, 1);
    expect_cached(path_, 0, (kPages + 100) * kPage, kPages + 1, kPages + 100);
    expect_cached(path_, std::uint64_t{1} << 40, kPage, 0, 1);
  });
}

TEST_P(CachedPagesOfAFile, AreCountedInAFileLargerThanOneQuestion) {
  constexpr std::uint64_t kBytes = 40u << 20;
  std::filesystem::resize_file(path_, kBytes);
  make_cold(path_);  // the last page was made longer
  read_into_cache(path_, kBytes - 2 * kPage, 2 * kPage);
  in_child([&] { expect_cached(path_, 0, kBytes, 2, kBytes / kPage); });
}

TEST_P(CachedPagesOfAFile, DoNotBecomeMoreByAsking) {
  in_child([&] {
    for (int i = 0; i < 3; ++i) expect_cached(path_, 0, kPages * kPage, 0, kPages);
  });
  check_cold(path_);
}

TEST_P(CachedPagesOfAFile, AreToldOnlyToThoseWhoMayWriteIt) {
  if (::getuid() != 0) GTEST_SKIP() << "dropping to another user needs root";
  std::filesystem::permissions(directory_.path("."), std::filesystem::perms::all);
  const std::string writable = directory_.write("writable", pattern_bytes(1, kPage));
  make_cold(writable);
  using std::filesystem::perms;
  constexpr perms kReadable = perms::owner_read | perms::group_read | perms::others_read;
  std::filesystem::permissions(writable, kReadable | perms::group_write | perms::others_write);
  std::filesystem::permissions(path_, kReadable);
  in_child([&] {
    if (::setgroups(0, nullptr) != 0 || ::setresuid(65534, 65534, 65534) != 0) std::_Exit(93);
    expect_cached(writable, 0, kPage, 0, 1);
    const FileDescriptor file = open_file(path_);
    ASSERT_TRUE(file.is_open());
    const auto pages = cached_pages(file.get(), 0, kPages * kPage);
    // Before Linux 6.14 cachestat answers everybody, and truly.
    if (pages) {
      EXPECT_TRUE(GetParam());
      EXPECT_EQ(pages->cached, 0u);
    }
  });
}

TEST_P(CachedPagesOfAFile, AreThoseOfTheFileBeneathAnOverlay) {
  const TemporaryDirectory above;
  for (const char* name : {"upper", "work", "mount"}) std::filesystem::create_directory(above.path(name));
  const std::string options =
      "lowerdir=" + directory_.path() + ",upperdir=" + above.path("upper") + ",workdir=" + above.path("work");
  if (::mount("overlay", above.path("mount").c_str(), "overlay", 0, options.c_str()) != 0) {
    GTEST_SKIP() << "no overlay can be mounted: " << std::strerror(errno);
  }
  const std::string path = above.path("mount") + "/file";
  in_child([&] { expect_cached(path, 0, kPages * kPage, 0, kPages); });
  read_into_cache(path, kPage, 4 * kPage);
  in_child([&] { expect_cached(path, 0, kPages * kPage, 4, kPages); });
  EXPECT_EQ(::umount(above.path("mount").c_str()), 0);
}

TEST(CachedPages, AreUnknownOfWhatIsNotOpen) { EXPECT_EQ(cached_pages(-1, 0, kPage), std::nullopt); }

}  // namespace
}  // namespace tierstream
