#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/io/wake_signal.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "requirements.h"

namespace tierstream {
namespace {

/// Copies at once in `submit`; `collect` only hands out the results.
class MemoryBackend final : public StorageBackend {
 public:
  MemoryBackend(std::shared_ptr<const MemoryFiles> files, const StorageOptions& options)
      : StorageBackend({.max_in_flight = options.max_in_flight}), contents_(std::move(files)) {
    results_.reserve(options.max_in_flight);
  }

 private:
  FileInfo do_open(FileId, const std::string& path) override {
    const auto found = contents_->find(path);
    if (found == contents_->end()) {
      throw Error(Errc::kOpenFailed, "there is no such file in memory", {.file = path, .backend = "memory"},
                  std::make_error_code(std::errc::no_such_file_or_directory));
    }
    open_.push_back(found->second);
    return {.bytes = found->second.size(),
            .version = {.inode = reinterpret_cast<std::uintptr_t>(&found->second)}};
  }

  void do_submit(std::span<const RawRead> reads) override {
    for (const RawRead& read : reads) {
      const std::span<const std::byte> content =
          open_[static_cast<std::size_t>(read.file)].subspan(read.offset);
      const std::size_t bytes = std::min(content.size(), read.destination.size());
      std::memcpy(read.destination.data(), content.data(), bytes);
      results_.push_back({read.id, static_cast<std::int64_t>(bytes)});
    }
  }

  std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds wait) override {
    if (results_.empty()) wake_.wait(wait);
    const std::size_t count = std::min(completions.size(), results_.size());
    std::copy_n(results_.begin(), count, completions.begin());
    results_.erase(results_.begin(), results_.begin() + static_cast<std::ptrdiff_t>(count));
    return count;
  }

  void do_wake() noexcept override { wake_.wake(); }

  StoragePath do_path() const override { return {.backend = "memory"}; }

  std::shared_ptr<const MemoryFiles> contents_;
  std::vector<std::span<const std::byte>> open_;
  std::vector<RawCompletion> results_;
  WakeSignal wake_;
};

}  // namespace

std::unique_ptr<StorageBackend> make_memory_backend(std::shared_ptr<const MemoryFiles> files,
                                                    const StorageOptions& options) {
  const ErrorPlace place{.backend = "memory"};
  refuse_if_required(options.require_io_uring, {"io_uring", "the files lie in memory"}, place);
  refuse_if_required(options.cache == CacheUse::kDirect, {"direct I/O", "the files lie in memory"}, place);
  refuse_if_required(options.require_registered, {"registered I/O", "the files lie in memory"}, place);
  return std::make_unique<MemoryBackend>(std::move(files), options);
}

}  // namespace tierstream
