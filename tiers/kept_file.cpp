#include "kept_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <tierstream/io/cached_pages.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/layer_layout.h>
#include <tierstream/tiers/page_cache.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <optional>
#include <utility>

namespace tierstream {
namespace {

std::error_code last_error() { return {errno, std::generic_category()}; }

// --- Who is mapped where, for handlers of SIGBUS ---

struct MappedFile {
  std::atomic<const std::byte*> begin = nullptr;
  std::atomic<const std::byte*> end = nullptr;
  std::atomic<const char*> path = nullptr;
};
/// More mappings than this are not named. Never destroyed: a signal may come at any time.
std::array<MappedFile, 1024> mapped_files;

MappedFile* note_mapped(const std::byte* begin, std::size_t bytes, const char* path) noexcept {
  for (MappedFile& entry : mapped_files) {
    const char* none = nullptr;
    if (!entry.path.compare_exchange_strong(none, path)) continue;
    entry.end = begin + bytes;
    entry.begin = begin;
    return &entry;
  }
  return nullptr;
}

void forget_mapped(MappedFile* entry) noexcept {
  if (entry == nullptr) return;
  entry->begin = nullptr;
  entry->path = nullptr;
}

/// A file mapped whole, shared and read-only.
class FileMapping final : public KeptFile {
 public:
  explicit FileMapping(const SourceFile& file) : FileMapping(file.path, file.info) {  // whole: a throw closes
    file_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (file_ < 0) throw Error(Errc::kOpenFailed, "cannot open", {.file = path_}, last_error());
    check_unchanged();
    void* const mapping = ::mmap(nullptr, info_.bytes, PROT_READ, MAP_SHARED, file_, 0);
    if (mapping == MAP_FAILED) {
      throw Error(Errc::kOutOfMemory, "cannot map", {.file = path_}, last_error());
    }
    data_ = static_cast<const std::byte*>(mapping);
    // Readahead would bring in pages beyond the kept chunks, through the mapping and through reads alike.
    ::madvise(mapping, info_.bytes, MADV_RANDOM);
    ::posix_fadvise(file_, 0, 0, POSIX_FADV_RANDOM);
    noted_ = note_mapped(data_, info_.bytes, path_.c_str());
  }
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;
  ~FileMapping() override {
    forget_mapped(noted_);
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), info_.bytes);
    if (file_ >= 0) ::close(file_);
  }

  void check_unchanged() const override {
    if (is_unchanged(info_, file_)) return;
    struct stat now {};
    if (::fstat(file_, &now) != 0) throw changed();
    throw changed(static_cast<std::uint64_t>(now.st_size));
  }

  bool is_there(std::uint64_t begin, std::uint64_t end, bool was_there) const noexcept override {
    const std::optional<CachedPages> pages = cached_pages(file_, begin, end - begin);
    return pages ? pages->all() : was_there;
  }

  void drop(std::uint64_t begin, std::uint64_t bytes) const noexcept override {
    ::posix_fadvise(file_, static_cast<off_t>(begin), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
  }

  std::string lock(std::uint64_t begin, std::uint64_t bytes, bool is_asked_for) const override {
    std::string refusal;
    if (!is_asked_for) {
      refusal = "not asked for";
    } else if (::mlock(data_ + begin, bytes) != 0) {
      refusal = fmt::format("mlock of {}: {}", format_bytes(bytes), last_error().message());
    }
    if (!refusal.empty()) ::madvise(const_cast<std::byte*>(data_ + begin), bytes, MADV_POPULATE_READ);
    return refusal;
  }
  HostAccess access() const noexcept override { return HostAccess::kReadOnly; }

  /// Into the page cache.
  void read(std::uint64_t begin, std::uint64_t end, Reader& reader) const override {
    const std::span<std::byte> scratch = reader.scratch();
    while (begin < end) {
      const std::size_t wanted = std::min<std::uint64_t>(scratch.size(), end - begin);
      const ssize_t count = ::pread(file_, scratch.data(), wanted, static_cast<off_t>(begin));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) {
        throw Error(Errc::kReadFailed, "cannot read into the page cache", place_at(begin), last_error());
      }
      if (count == 0) throw Error(Errc::kEndOfFile, "the file ends early", place_at(begin));
      begin += static_cast<std::uint64_t>(count);
    }
  }

 private:
  FileMapping(std::string path, const FileInfo& info) : path_(std::move(path)), info_(info) {}

  ErrorPlace place_at(std::uint64_t offset) const { return {.file = path_, .offset = offset}; }
  Error changed(std::optional<std::uint64_t> bytes = {}) const {
    ErrorPlace place{.file = path_};
    if (bytes && *bytes != info_.bytes) {
      place.expected_bytes = info_.bytes;
      place.actual_bytes = *bytes;
    }
    return {Errc::kFileChanged, "the file was changed while the page-cache tier keeps pages of it",
            std::move(place)};
  }

  std::string path_;
  FileInfo info_;
  int file_ = -1;
  MappedFile* noted_ = nullptr;
};

/// A file of a backend whose files have no pages to map: read once, into memory of this process.
class PinnedFile final : public KeptFile {
 public:
  PinnedFile(std::uint32_t file, const FileInfo& info)
      : file_(file),
        alignment_(std::max({info.offset_alignment, info.memory_alignment, 1u})),
        bytes_((info.bytes + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment) {
    void* const memory =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error(Errc::kOutOfMemory, "cannot reserve", {}, last_error());
    data_ = static_cast<const std::byte*>(memory);
    ::madvise(memory, bytes_, MADV_NOHUGEPAGE);  // chunks may be smaller, and none takes more than its bytes
  }
  ~PinnedFile() override { ::munmap(const_cast<std::byte*>(data_), bytes_); }

  bool is_there(std::uint64_t, std::uint64_t, bool was_there) const noexcept override { return was_there; }
  void read(std::uint64_t begin, std::uint64_t end, Reader& reader) const override {
    const std::uint64_t bytes = (end - begin + alignment_ - 1) / alignment_ * alignment_;
    reader.read(file_, begin, {const_cast<std::byte*>(data_ + begin), bytes});
  }
  /// Nobody takes it away: registering pins it where the device needs that.
  std::string lock(std::uint64_t, std::uint64_t, bool) const override { return {}; }
  HostAccess access() const noexcept override { return HostAccess::kReadWrite; }

 private:
  const std::uint32_t file_;
  const std::uint64_t alignment_;
  const std::uint64_t bytes_;
};

}  // namespace

const char* mapped_file_at(const void* address) noexcept {
  for (const MappedFile& entry : mapped_files) {
    const std::byte* const begin = entry.begin;
    if (begin != nullptr && begin <= address && address < entry.end) return entry.path;
  }
  return nullptr;
}

void Reader::read(std::uint32_t file, std::uint64_t begin, std::span<std::byte> memory) {
  if (!storage_) storage_ = open_files(table_);
  std::array<Completion, 16> completions;
  std::error_code error;
  std::span<std::byte> rest = memory;
  while (storage_->in_flight() != 0 || (!error && !rest.empty())) {
    while (!error && !rest.empty() && storage_->free_requests() != 0) {
      const std::span<std::byte> next = rest.first(std::min<std::uint64_t>(request_bytes_, rest.size()));
      const auto offset = begin + static_cast<std::uint64_t>(next.data() - memory.data());
      storage_->submit(std::array{ReadRequest{0, FileId{file}, offset, next}});
      rest = rest.subspan(next.size());
    }
    const std::size_t count = storage_->collect(completions, std::chrono::nanoseconds::max());
    for (const Completion& completion : std::span(completions).first(count)) {
      if (completion.error) error = completion.error;
    }
  }
  if (!error) return;
  throw Error(Errc::kReadFailed, "cannot read into pinned memory",
              {.file = table_.files[file].path, .offset = begin}, error);
}

void KeptFile::release(std::uint64_t begin, std::uint64_t bytes) const noexcept {
  auto* const pages = const_cast<std::byte*>(data_ + begin);
  ::munlock(pages, bytes);
  ::madvise(pages, bytes, MADV_DONTNEED);
}

std::shared_ptr<KeptFile> make_kept_file(const LayerTable& table, std::uint32_t file) {
  const SourceFile& source = table.files[file];
  if (source.info.is_local_file) return std::make_shared<FileMapping>(source);
  return std::make_shared<PinnedFile>(file, source.info);
}

}  // namespace tierstream
