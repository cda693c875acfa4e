// The example backend keeps the contract of the library's own.
#include "tar_storage.h"

#include <tierstream/io/checkpoint.h>

#include <cstdio>
#include <cstring>
#include <numeric>

#include "support/checkpoint_files.h"
#include "support/storage_contract.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

/// Appends a regular file to a .tar archive.
void append_member(std::vector<std::byte>& archive, const std::string& name,
                   std::span<const std::byte> content) {
  char header[512] = {};
  name.copy(header, 99);
  std::memcpy(header + 100, "0000644", 8);
  std::snprintf(header + 124, 12, "%011llo", static_cast<unsigned long long>(content.size()));
  header[156] = '0';
  std::memcpy(header + 257, "ustar\00000", 8);
  std::memset(header + 148, ' ', 8);
  const unsigned sum = std::accumulate(std::begin(header), std::end(header), 0u, [](unsigned total, char c) {
    return total + static_cast<unsigned char>(c);
  });
  std::snprintf(header + 148, 8, "%06o", sum);
  const auto bytes = std::as_bytes(std::span(header));
  archive.insert(archive.end(), bytes.begin(), bytes.end());
  archive.insert(archive.end(), content.begin(), content.end());
  archive.resize((archive.size() + 511) / 512 * 512);
}

class FilesInTar : public StorageUnderTest {
 public:
  std::string add_file(std::uint64_t seed, std::size_t bytes) override {
    const std::string name = "inner/" + std::to_string(count_++);
    append_member(archive_, name, pattern_bytes(seed, bytes));
    directory_.write("model.tar", archive_);
    return directory_.path("model.tar") + "/" + name;
  }
  std::unique_ptr<StorageBackend> make(std::size_t max_in_flight) override {
    return make_tar_backend({.max_in_flight = max_in_flight});
  }
  bool truncate(const std::string&, std::uint64_t bytes) override {
    std::filesystem::resize_file(directory_.path("model.tar"), 512 + bytes);
    return true;
  }

 private:
  TemporaryDirectory directory_;
  std::vector<std::byte> archive_;
  int count_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Example, StorageContract,
                         testing::Values(StorageCase{"Tar", [] { return std::make_unique<FilesInTar>(); }}),
                         name_of_case);

class TarStorage : public testing::Test {
 protected:
  TarStorage() {
    append_member(archive_, "readme.txt", bytes_of_text("not a checkpoint"));
    append_member(archive_, "inner/model.safetensors", golden_safetensors({{.name = "a"}, {.name = "b"}}));
    registry_.add("tar", make_tar_backend);
  }

  Checkpoint open(const std::string& name) {
    return Checkpoint::open("tar://" + directory_.write("x.tar", archive_) + "/" + name, {}, registry_);
  }

  TemporaryDirectory directory_;
  std::vector<std::byte> archive_;
  StorageRegistry registry_;
};

TEST_F(TarStorage, OpensACheckpointInsideAnArchive) {
  for (const char* name : {"inner/model.safetensors", "inner"}) {
    const Checkpoint checkpoint = open(name);
    ASSERT_EQ(checkpoint.tensors().size(), 2u) << name;
    EXPECT_EQ(checkpoint.tensors()[1].name, "b");
    EXPECT_EQ(checkpoint.open_storage()()->path().backend, "tar");
  }
}

TEST_F(TarStorage, RefusesAMemberThatIsNotThere) {
  EXPECT_EQ(thrown_by([&] { open("inner/other.safetensors"); }).errc, Errc::kOpenFailed);
}

TEST_F(TarStorage, RefusesToReadDirectly) {
  EXPECT_EQ(thrown_by([] { make_tar_backend({.cache = CacheUse::kDirect}); }).errc, Errc::kRequirementNotMet);
}

TEST_F(TarStorage, StopsAtABrokenHeader) {
  archive_[512 + 512 + 257] = std::byte{'x'};  // the second member's magic
  EXPECT_EQ(thrown_by([&] { open("inner/model.safetensors"); }).errc, Errc::kOpenFailed);
}

}  // namespace
}  // namespace tierstream
