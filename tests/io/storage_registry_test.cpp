#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/io/storage_registry.h>

namespace tierstream {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

TEST(StorageRegistry, TakesAPlainPathForAFile) {
  const StorageRegistry registry;
  for (const char* path : {"/models/x", "relative/x", "./a://b", "://x", "C:/x", ""}) {
    const auto resolved = registry.resolve(path);
    EXPECT_EQ(resolved.path, path);
    EXPECT_THAT(resolved.factory()->path().backend, AnyOf("io_uring", "posix"));
  }
}

TEST(StorageRegistry, KnowsTheSchemesOfTheLibrary) {
  const StorageRegistry registry;
  EXPECT_EQ(registry.resolve("posix:///m/x").factory()->path().backend, "posix");
  EXPECT_EQ(registry.resolve("posix:///m/x").path, "/m/x");
  EXPECT_EQ(registry.resolve("file://x").path, "x");
  EXPECT_EQ(registry.resolve("io_uring:///m/x").path, "/m/x");
}

TEST(StorageRegistry, MakesABackendOfItsOwnForEachCaller) {
  const auto resolved = StorageRegistry().resolve("posix://x", {.max_in_flight = 3});
  const auto first = resolved.factory();
  const auto second = resolved.factory();
  EXPECT_NE(first, second);
  EXPECT_EQ(first->limits().max_in_flight, 3u);
}

TEST(StorageRegistry, ListsTheKnownSchemesWhenOneIsUnknown) {
  StorageRegistry registry;
  registry.add("mem", [](const StorageOptions& options) {
    return make_memory_backend(std::make_shared<MemoryFiles>(), options);
  });
  EXPECT_EQ(registry.resolve("mem://x").factory()->path().backend, "memory");
  try {
    registry.resolve("s3://bucket/x");
    FAIL() << "was resolved";
  } catch (const Error& error) {
    EXPECT_EQ(error.errc(), Errc::kUnknownScheme);
    EXPECT_THAT(error.what(), HasSubstr("\"s3\""));
    EXPECT_THAT(error.what(), HasSubstr("file, io_uring, mem, posix"));
  }
}

TEST(StorageRegistry, RefusesASchemeThatNoAddressCouldName) {
  StorageRegistry registry;
  for (const char* scheme : {"", "a/b", "1st", "Upper"})
    EXPECT_THROW(registry.add(scheme, {}), Error) << scheme;
}

}  // namespace
}  // namespace tierstream
