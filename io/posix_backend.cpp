#include "posix_backend.h"

#include <tierstream/io/threaded_backend.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "posix_files.h"
#include "requirements.h"

namespace tierstream {
namespace {

class PosixStorage final : public BlockingStorage {
 public:
  PosixStorage(const StorageOptions& options, std::vector<Fallback> reasons)
      : files_(options, "posix"), reasons_(std::move(reasons)) {}

  FileInfo open(FileId, const std::string& path) override { return files_.open(path).info; }

  std::int64_t read(FileId file, std::uint64_t offset, std::span<std::byte> destination) noexcept override {
    return read_by(files_[file].descriptor, offset, destination);
  }

  bool is_cached(FileId file, std::uint64_t offset, std::uint64_t bytes) override {
    return files_.is_cached(file, offset, bytes);
  }

  std::int64_t read_cached(FileId file, std::uint64_t offset,
                           std::span<std::byte> destination) noexcept override {
    return read_by(files_[file].cached_descriptor, offset, destination);
  }

  bool drop_direct(FileId file) override { return files_.drop_direct(file); }

  StoragePath path() const override {
    StoragePath path{.backend = "posix",
                     .direct = files_.all_direct(),
                     .cached_reads = files_.all_read_cached(),
                     .fallbacks = reasons_};
    path.fallbacks.insert(path.fallbacks.end(), files_.fallbacks().begin(), files_.fallbacks().end());
    return path;
  }

 private:
  static std::int64_t read_by(const FileDescriptor& descriptor, std::uint64_t offset,
                              std::span<std::byte> destination) noexcept {
    const ssize_t result =
        ::pread(descriptor.get(), destination.data(), destination.size(), static_cast<off_t>(offset));
    return result >= 0 ? result : -errno;
  }

  PosixFiles files_;
  std::vector<Fallback> reasons_;
};

}  // namespace

std::unique_ptr<StorageBackend> make_posix_backend(const StorageOptions& options,
                                                   std::vector<Fallback> reasons) {
  const ErrorPlace place{.backend = "posix"};
  refuse_if_required(options.require_io_uring, {"io_uring", "the posix backend was asked for"}, place);
  refuse_if_required(options.require_registered, {"registered I/O", "pread has none"}, place);
  return make_threaded_backend(std::make_unique<PosixStorage>(options, std::move(reasons)),
                               {.threads = options.threads.value_or(ThreadedOptions{}.threads),
                                .max_in_flight = options.max_in_flight,
                                .max_cached_in_flight = options.max_cached_in_flight});
}

std::unique_ptr<StorageBackend> make_posix_backend(const StorageOptions& options) {
  return make_posix_backend(options, {});
}

}  // namespace tierstream
