// Runs the contract suite on every backend of the library and on the fakes of the tests.
#include "support/storage_contract.h"

#include <tierstream/io/file_backends.h>

#include <filesystem>
#include <fstream>

#include "support/faulty_backend.h"
#include "support/scripted_backend.h"

namespace tierstream {
namespace {

using MakeBackend = std::unique_ptr<StorageBackend> (*)(const StorageOptions&);

class FilesOnDisk : public StorageUnderTest {
 public:
  FilesOnDisk(MakeBackend make_backend, CacheUse cache, bool registered)
      : make_(make_backend), options_{.cache = cache}, registered_(registered) {}

  std::string add_file(std::uint64_t seed, std::size_t bytes) override {
    return directory_.write(std::to_string(count_++), pattern_bytes(seed, bytes));
  }
  std::unique_ptr<StorageBackend> make(std::size_t max_in_flight) override {
    options_.max_in_flight = options_.max_cached_in_flight = max_in_flight;
    return make_(options_);
  }
  bool truncate(const std::string& path, std::uint64_t bytes) override {
    std::filesystem::resize_file(path, bytes);
    return true;
  }
  std::string add_sparse_file(std::uint64_t bytes, std::span<const std::byte> tail) override {
    const std::string path = directory_.path(std::to_string(count_++));
    std::ofstream file(path, std::ios::binary);
    file.seekp(static_cast<std::streamoff>(bytes - tail.size()));
    file.write(reinterpret_cast<const char*>(tail.data()), static_cast<std::streamsize>(tail.size()));
    return path;
  }
  void prepare(StorageBackend& backend, std::span<std::byte> memory) override {
    // Half of it, so that reads into registered, unregistered and half registered memory all occur.
    if (registered_) {
      ASSERT_TRUE(backend.register_memory(memory.first(memory.size() / 2)));
    }
  }

 private:
  TemporaryDirectory directory_;
  MakeBackend make_;
  StorageOptions options_;
  bool registered_;
  int count_ = 0;
};

template <MakeBackend kMake>
StorageCase on_disk(std::string name, CacheUse cache, bool registered = false) {
  return {.name = std::move(name),
          .make = [=] { return std::make_unique<FilesOnDisk>(kMake, cache, registered); },
          .unavailable =
              [=] {
                try {
                  FilesOnDisk files(kMake, cache, registered);
                  files.make(1)->open(files.add_file(0, 1));
                  return std::string();
                } catch (const Error& error) {
                  return std::string(error.what());
                }
              }};
}

/// Backends that read from MemoryFiles.
template <typename Make>
class FilesInMemory : public StorageUnderTest {
 public:
  explicit FilesInMemory(Make make_backend) : make_(make_backend) {}

  std::string add_file(std::uint64_t seed, std::size_t bytes) override {
    const std::string path = std::to_string(files_->size());
    files_->emplace(path, pattern_bytes(seed, bytes));
    return path;
  }
  std::unique_ptr<StorageBackend> make(std::size_t max_in_flight) override {
    return make_(files_, max_in_flight);
  }

 private:
  std::shared_ptr<MemoryFiles> files_ = std::make_shared<MemoryFiles>();
  Make make_;
};

template <typename Make>
StorageCase in_memory(std::string name, Make make) {
  return {.name = std::move(name), .make = [make] { return std::make_unique<FilesInMemory<Make>>(make); }};
}

class FilesByScript : public StorageUnderTest {
 public:
  std::string add_file(std::uint64_t seed, std::size_t bytes) override {
    const std::string path = std::to_string(files_.size());
    files_.push_back({.path = path,
                      .info = {.bytes = bytes, .offset_alignment = 512, .memory_alignment = 512},
                      .seed = seed});
    return path;
  }
  std::unique_ptr<StorageBackend> make(std::size_t max_in_flight) override {
    return std::make_unique<ScriptedBackend>(files_, StorageLimits{.max_in_flight = max_in_flight});
  }

 private:
  std::vector<ScriptedBackend::File> files_;
};

INSTANTIATE_TEST_SUITE_P(
    Library, StorageContract,
    testing::Values(on_disk<make_io_uring_backend>("IoUringAuto", CacheUse::kAuto),
                    on_disk<make_io_uring_backend>("IoUringDirect", CacheUse::kDirect),
                    on_disk<make_io_uring_backend>("IoUringBuffered", CacheUse::kBuffered),
                    on_disk<make_io_uring_backend>("IoUringRegistered", CacheUse::kDirect, true),
                    on_disk<make_posix_backend>("PosixAuto", CacheUse::kAuto),
                    on_disk<make_posix_backend>("PosixDirect", CacheUse::kDirect),
                    on_disk<make_posix_backend>("PosixBuffered", CacheUse::kBuffered),
                    in_memory("Memory",
                              [](auto files, std::size_t max_in_flight) {
                                return make_memory_backend(files, {.max_in_flight = max_in_flight});
                              })),
    name_of_case);

INSTANTIATE_TEST_SUITE_P(
    Fakes, StorageContract,
    testing::Values(StorageCase{"Scripted", [] { return std::make_unique<FilesByScript>(); }},
                    in_memory("Faulty",
                              [](auto files, std::size_t max_in_flight) -> std::unique_ptr<StorageBackend> {
                                const FaultRates rates{
                                    .short_read = 0.3, .interrupted = 0.1, .busy = 0.1, .late = 0.5};
                                return std::make_unique<FaultyBackend>(
                                    files, 1, rates, StorageLimits{.max_in_flight = max_in_flight}, 256);
                              })),
    name_of_case);

}  // namespace
}  // namespace tierstream
