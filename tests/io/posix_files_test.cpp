// What the two backends that read files of the operating system share: opening, direct I/O, what is refused.
#include "posix_files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "file_backend.h"
#include "support/test_files.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

using testing::HasSubstr;

class FilesOfTheSystem : public testing::TestWithParam<FileBackend> {
 protected:
  void SetUp() override {
    try {
      make();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what();
    }
  }

  std::unique_ptr<StorageBackend> make(const StorageOptions& options = {}) {
    return GetParam().make(options);
  }

  /// Opens `path` and expects Error with this code and text.
  void expect_refused(const std::string& path, Errc code, const std::string& text,
                      StorageOptions options = {}) {
    try {
      make(options)->open(path);
      ADD_FAILURE() << path << " was opened";
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), code) << error.what();
      EXPECT_THAT(error.what(), testing::StartsWith(path + ": "));
      EXPECT_THAT(error.what(), HasSubstr(text));
      EXPECT_EQ(error.place().backend, GetParam().name);
    }
  }

  TemporaryDirectory directory_;
};

INSTANTIATE_TEST_SUITE_P(Backends, FilesOfTheSystem, file_backends(),
                         [](const auto& backend) { return backend.param.name; });

TEST_P(FilesOfTheSystem, RefusesWhatIsNotARegularFileAtOnce) {
  const std::string fifo = directory_.path("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const std::string name = directory_.path("socket");
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  ASSERT_LT(name.size(), sizeof address.sun_path);
  std::ranges::copy(name, address.sun_path);
  ASSERT_EQ(::bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  for (const CacheUse cache : {CacheUse::kAuto, CacheUse::kDirect, CacheUse::kBuffered}) {
    expect_refused(fifo, Errc::kNotARegularFile, "FIFO", {.cache = cache});
    expect_refused(directory_.path("."), Errc::kNotARegularFile, "directory", {.cache = cache});
    expect_refused("/dev/null", Errc::kNotARegularFile, "character device", {.cache = cache});
    expect_refused(name, Errc::kNotARegularFile, "socket", {.cache = cache});
  }
  ::close(socket);
}

TEST_P(FilesOfTheSystem, RefusesLinksThatLeadNowhere) {
  std::filesystem::create_symlink("nowhere", directory_.path("broken"));
  std::filesystem::create_symlink("loop", directory_.path("loop"));
  expect_refused(directory_.path("broken"), Errc::kOpenFailed, "No such file");
  expect_refused(directory_.path("loop"), Errc::kOpenFailed, "symbolic links");
}

TEST_P(FilesOfTheSystem, SaysThatAFileMayNotBeRead) {
  if (::getuid() != 0) GTEST_SKIP() << "dropping to another user needs root";
  const std::string path = directory_.write("secret", pattern_bytes(1, 10));
  std::filesystem::permissions(path, std::filesystem::perms::none);
  const auto in_child = [&] {
    std::filesystem::permissions(directory_.path("."), std::filesystem::perms::all);
    if (::setuid(65534) != 0) std::_Exit(2);
    expect_refused(path, Errc::kOpenFailed, "Permission denied");
    std::_Exit(HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "");
}

TEST_P(FilesOfTheSystem, NamesTheLimitWhenTooManyFilesAreOpen) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer needs file descriptors itself to check the types that an error is made of";
#endif
  const std::string path = directory_.write("file", pattern_bytes(1, 10));
  const auto in_child = [&] {
    const auto backend = make();
    const int next = ::open("/dev/null", O_RDONLY);
    const rlimit limit{static_cast<rlim_t>(next), static_cast<rlim_t>(next)};
    ::close(next);
    ::setrlimit(RLIMIT_NOFILE, &limit);
    try {
      for (int i = 0; i < 100; ++i) backend->open(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::kOpenFailed);
      EXPECT_EQ(error.cause(), std::errc::too_many_files_open);
      EXPECT_THAT(error.what(), HasSubstr("RLIMIT_NOFILE allows " + std::to_string(limit.rlim_cur)));
      std::_Exit(HasFailure() ? 1 : 0);
    }
    std::_Exit(3);
  };
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "");
}

TEST_P(FilesOfTheSystem, ReadsDirectlyOnlyWhenEveryFileIs) {
  const std::string path = directory_.write("file", pattern_bytes(1, 100'000));
  const auto direct = make();
  EXPECT_FALSE(direct->path().direct);  // nothing is open
  direct->open(path);
  if (!direct->path().direct) GTEST_SKIP() << direct->path().fallbacks.at(0).reason;
  EXPECT_TRUE(direct->path().fallbacks.empty());
  EXPECT_GE(direct->info(FileId{0}).offset_alignment, 512u);

  const auto buffered = make({.cache = CacheUse::kBuffered});
  buffered->open(path);
  EXPECT_FALSE(buffered->path().direct);
  EXPECT_TRUE(buffered->path().fallbacks.empty());
  EXPECT_EQ(buffered->info(FileId{0}).offset_alignment, 1u);
}

TEST_P(FilesOfTheSystem, KeepsTheReasonWhyAFileIsNotReadDirectly) {
  // /proc/self/maps and its like are regular files without direct I/O on every kernel.
  const std::string path = "/proc/self/maps";
  const auto backend = make();
  backend->open(path);
  const StoragePath taken = backend->path();
  EXPECT_FALSE(taken.direct);
  const auto direct = std::ranges::find(taken.fallbacks, "direct I/O", &Fallback::wanted);
  ASSERT_NE(direct, taken.fallbacks.end());
  EXPECT_THAT(direct->reason, HasSubstr(path));
  EXPECT_THAT(direct->reason, HasSubstr("Invalid argument"));
  expect_refused(path, Errc::kRequirementNotMet, "direct I/O is required", {.cache = CacheUse::kDirect});
}

TEST_P(FilesOfTheSystem, TellsAReplacedAndARewrittenFileFromTheOldOne) {
  const std::string path = directory_.write("file", pattern_bytes(1, 4096));
  const auto backend = make();
  const FileVersion first = backend->info(backend->open(path)).version;
  EXPECT_EQ(backend->info(backend->open(path)).version, first);
  const std::string other = directory_.write("other", pattern_bytes(2, 4096));
  std::filesystem::rename(other, path);
  const FileVersion replaced = backend->info(backend->open(path)).version;
  EXPECT_NE(replaced, first);
  EXPECT_NE(replaced.inode, first.inode);
  std::filesystem::last_write_time(path,
                                   std::filesystem::last_write_time(path) + std::chrono::nanoseconds(1000));
  EXPECT_NE(backend->info(backend->open(path)).version, replaced);
}

TEST_P(FilesOfTheSystem, AreFoundUnchangedOrNotByAnOpenDescriptor) {
  const std::string path = directory_.write("file", pattern_bytes(1, 4096));
  const auto backend = make();
  const FileInfo info = backend->info(backend->open(path));
  const auto is_unchanged_now = [&] {
    return is_unchanged(info, FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC)).get());
  };
  EXPECT_TRUE(is_unchanged_now());
  std::filesystem::rename(directory_.write("other", pattern_bytes(2, 4096)), path);  // of the same size
  EXPECT_FALSE(is_unchanged_now());
  EXPECT_FALSE(is_unchanged(info, -1));
}

TEST_P(FilesOfTheSystem, AnswersAChildProcessWithAnErrorAndLetsItDestroyTheBackend) {
  const std::string path = directory_.write("file", pattern_bytes(1, 8192));
  auto backend = make();
  const FileId file = backend->open(path);
  Completion completion;
  backend->wake();
  backend->collect({&completion, 1}, std::chrono::nanoseconds::max());  // threads and ring are in use
  const auto in_child = [&] {
    try {
      backend->info(file);
      backend->collect({&completion, 1}, std::chrono::nanoseconds(0));
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("fork"));
      backend.reset();
      std::_Exit(HasFailure() ? 1 : 0);
    }
    std::_Exit(2);
  };
  EXPECT_EXIT(in_child(), testing::ExitedWithCode(0), "");
}

TEST(PosixFiles, GoOnWithoutDirectWhenAReadIsRefused) {
  const TemporaryDirectory directory;
  const std::string path = directory.write("file", pattern_bytes(1, 10'000));
  PosixFiles files({}, "test");
  files.open(path);
  files.open(path);
  if (!files.all_direct()) GTEST_SKIP() << files.fallbacks().at(0).reason;

  EXPECT_TRUE(files.drop_direct(FileId{1}));
  EXPECT_FALSE(files.drop_direct(FileId{1}));
  EXPECT_FALSE(files.all_direct());
  EXPECT_TRUE(files[FileId{0}].direct);
  ASSERT_EQ(files.fallbacks().size(), 1u);
  EXPECT_EQ(files.fallbacks()[0].wanted, "direct I/O");
  EXPECT_THAT(files.fallbacks()[0].reason, HasSubstr(path + ": a read was refused"));
  std::byte odd[3];
  EXPECT_EQ(::pread(files[FileId{1}].descriptor.get(), odd, 3, 1), 3);  // direct I/O refuses such a place
}

TEST(PosixFiles, StayDirectWhereThatIsRequired) {
  const TemporaryDirectory directory;
  PosixFiles files({.cache = CacheUse::kDirect}, "test");
  const std::string path = directory.write("file", pattern_bytes(1, 10'000));
  try {
    files.open(path);
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  EXPECT_EQ(thrown_by([&] { files.drop_direct(FileId{0}); }).errc, Errc::kRequirementNotMet);
  EXPECT_TRUE(files.all_direct());
}

TEST(PosixBackend, RefusesRequirementsThatItCannotMeet) {
  for (const StorageOptions& options :
       {StorageOptions{.require_io_uring = true}, StorageOptions{.require_registered = true}}) {
    try {
      make_posix_backend(options);
      FAIL() << "was made";
    } catch (const Error& error) {
      EXPECT_EQ(error.errc(), Errc::kRequirementNotMet);
    }
  }
}

TEST(MemoryBackend, RefusesRequirementsThatItCannotMeet) {
  for (const StorageOptions& options :
       {StorageOptions{.require_io_uring = true}, StorageOptions{.cache = CacheUse::kDirect},
        StorageOptions{.require_registered = true}}) {
    EXPECT_THROW(make_memory_backend(std::make_shared<MemoryFiles>(), options), Error);
  }
}

TEST(ThreadedBackend, NeedsAThread) { EXPECT_THROW(make_posix_backend({.threads = 0u}), Error); }

}  // namespace
}  // namespace tierstream
