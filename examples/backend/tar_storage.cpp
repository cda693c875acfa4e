#include "tar_storage.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <tierstream/io/error.h>
#include <tierstream/io/threaded_backend.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

namespace {

using tierstream::Errc;
using tierstream::Error;
using tierstream::FileId;
using tierstream::FileInfo;

constexpr std::uint64_t kTarBlock = 512;

/// A member of an archive as its header (POSIX.1-1988, "ustar") describes it: less than 8 GiB, a name of
/// at most 255 bytes.
struct TarHeader {
  explicit TarHeader(const std::array<char, kTarBlock>& block) {
    const auto field = [&](std::size_t offset, std::size_t length) {
      const std::string_view text(block.data() + offset, length);
      return text.substr(0, text.find('\0'));
    };
    if (!field(257, 5).starts_with("ustar")) return;
    name = field(0, 100);
    if (block[257 + 5] == '\0' && !field(345, 155).empty()) name = std::string(field(345, 155)) + "/" + name;
    if (name.starts_with("./")) name.erase(0, 2);
    const std::string_view octal = field(124, 12);
    is_valid = std::from_chars(octal.data(), octal.data() + octal.size(), bytes, 8).ec == std::errc();
    is_regular = block[156] == '0' || block[156] == '\0';
  }

  std::string name;
  std::uint64_t bytes = 0;
  bool is_valid = false;
  bool is_regular = false;
};

class TarStorage final : public tierstream::BlockingStorage {
 public:
  ~TarStorage() override {
    for (const Member& member : members_) ::close(member.archive);
  }

  FileInfo open(FileId, const std::string& path) override {
    const std::size_t split = path.find(".tar/");
    if (split == std::string::npos)
      throw Error(Errc::kOpenFailed, "names no file in a .tar archive", {.file = path});
    const std::string name = path.substr(split + 5);
    const int archive = ::open(path.substr(0, split + 4).c_str(), O_RDONLY | O_CLOEXEC);
    if (archive < 0) throw Error(Errc::kOpenFailed, "cannot open the archive", {.file = path}, last_error());
    members_.push_back({archive});
    if (find(members_.back(), name)) return info_of(members_.back());
    ::close(archive);
    members_.pop_back();
    throw Error(Errc::kOpenFailed, "there is no such file in the archive", {.file = path},
                std::make_error_code(std::errc::no_such_file_or_directory));
  }

  std::int64_t read(FileId file, std::uint64_t offset, std::span<std::byte> destination) noexcept override {
    const Member& member = members_[static_cast<std::size_t>(file)];
    const std::size_t bytes = std::min<std::uint64_t>(destination.size(), member.bytes - offset);
    const ssize_t result =
        ::pread(member.archive, destination.data(), bytes, static_cast<off_t>(member.start + offset));
    return result >= 0 ? result : -errno;
  }

  tierstream::StoragePath path() const override { return {.backend = "tar"}; }

 private:
  struct Member {
    int archive;
    std::uint64_t start = 0;  // in the archive
    std::uint64_t bytes = 0;
  };

  static std::error_code last_error() { return {errno, std::generic_category()}; }

  /// Walks the archive from header to header; a block that is none ends it.
  static bool find(Member& member, const std::string& name) {
    std::array<char, kTarBlock> block;
    std::uint64_t position = 0;
    while (::pread(member.archive, block.data(), kTarBlock, static_cast<off_t>(position)) ==
           static_cast<ssize_t>(kTarBlock)) {
      const TarHeader header(block);
      if (!header.is_valid) return false;
      member.start = position + kTarBlock;
      member.bytes = header.bytes;
      if (header.is_regular && header.name == name) return true;
      position = member.start + (header.bytes + kTarBlock - 1) / kTarBlock * kTarBlock;
    }
    return false;
  }

  static FileInfo info_of(const Member& member) {
    struct stat status {};
    ::fstat(member.archive, &status);
    return {.bytes = member.bytes,
            .version = {.device = status.st_dev,
                        .inode = status.st_ino,
                        .modified_ns = status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec}};
  }

  std::vector<Member> members_;
};

}  // namespace

std::unique_ptr<tierstream::StorageBackend> make_tar_backend(const tierstream::StorageOptions& options) {
  if (options.cache == tierstream::CacheUse::kDirect) {
    throw Error(Errc::kRequirementNotMet, "archives are read through the page cache");
  }
  return tierstream::make_threaded_backend(
      std::make_unique<TarStorage>(),
      {.threads = options.threads.value_or(tierstream::ThreadedOptions{}.threads),
       .max_in_flight = options.max_in_flight});
}
