#pragma once

#include <tierstream/io/error.h>
#include <tierstream/io/storage_backend.h>
#include <tierstream/io/wake_signal.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "support/test_files.h"

namespace tierstream {

/// A backend whose raw results the test writes beforehand: the n-th raw read ends with the n-th result of the
/// script, the reads after the script's end with all they asked for. A result above zero brings that many
/// true bytes.
class ScriptedBackend final : public StorageBackend {
 public:
  using StorageBackend::RawRead;

  struct File {
    std::string path;
    FileInfo info;
    std::uint64_t seed = 0;  ///< of pattern_byte
    bool direct = false;     ///< refuses all reads with EINVAL until direct I/O is dropped
    std::uint64_t cached_from = ~std::uint64_t{0};  ///< reads that begin here or later are had from the cache
  };

  explicit ScriptedBackend(std::vector<File> files, StorageLimits limits = {})
      : StorageBackend(limits), contents_(std::move(files)) {}

  void script(const std::vector<std::int64_t>& results) { script_.assign(results.begin(), results.end()); }
  /// The next `collect` also brings this.
  void bring(std::uint64_t id, std::int64_t result) { arrived_.push_back({id, result}); }
  /// All reads from here on end like this.
  void script_forever(std::int64_t result) { forever_ = result; }
  /// The next raw read gets no result but what `bring` gives it.
  void withhold_next() { withhold_next_ = true; }

  /// The next raw reads are not started but refused, as by a backend whose queue is broken.
  void refuse_next_submit() { refuse_next_submit_ = true; }

  void require_direct() { require_direct_ = true; }

  /// Every raw read that was started.
  const std::vector<RawRead>& reads() const { return reads_; }
  std::size_t drops() const { return drops_; }

 private:
  FileInfo do_open(FileId, const std::string& path) override {
    const auto found = std::ranges::find(contents_, path, &File::path);
    if (found == contents_.end()) {
      throw Error(Errc::kOpenFailed, "there is no such file", {.file = path, .backend = "scripted"});
    }
    open_.push_back(&*found);
    return found->info;
  }

  bool do_is_cached(FileId file, std::uint64_t offset, std::uint64_t) override {
    return offset >= open_[static_cast<std::size_t>(file)]->cached_from;
  }

  void do_submit(std::span<const RawRead> reads) override {
    if (std::exchange(refuse_next_submit_, false)) {
      throw Error(Errc::kBackendUnavailable, "reads are refused", {.backend = "scripted"});
    }
    for (const RawRead& read : reads) {
      reads_.push_back(read);
      if (std::exchange(withhold_next_, false)) continue;
      arrived_.push_back({read.id, carry_out(read)});
    }
  }

  std::int64_t carry_out(const RawRead& read) {
    const File& file = *open_[static_cast<std::size_t>(read.file)];
    if (file.direct) return -EINVAL;
    const auto whole = static_cast<std::int64_t>(
        std::min<std::uint64_t>(read.destination.size(), file.info.bytes - read.offset));
    std::int64_t result = forever_.value_or(whole);
    if (!script_.empty()) {
      result = std::min(script_.front(), whole);
      script_.pop_front();
    }
    for (std::int64_t i = 0; i < result; ++i) {
      read.destination[static_cast<std::size_t>(i)] =
          pattern_byte(file.seed, read.offset + static_cast<std::uint64_t>(i));
    }
    return result;
  }

  std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds wait) override {
    if (arrived_.empty()) wake_.wait(wait);
    std::size_t count = 0;
    for (; count < completions.size() && !arrived_.empty(); ++count) {
      completions[count] = arrived_.front();
      arrived_.pop_front();
    }
    return count;
  }

  void do_wake() noexcept override { wake_.wake(); }

  bool do_drop_direct(FileId file) override {
    ++drops_;
    if (require_direct_) throw Error(Errc::kRequirementNotMet, "direct I/O is required");
    return std::exchange(open_[static_cast<std::size_t>(file)]->direct, false);
  }

  StoragePath do_path() const override { return {.backend = "scripted"}; }

  std::vector<File> contents_;
  std::vector<File*> open_;
  std::deque<std::int64_t> script_;
  std::optional<std::int64_t> forever_;
  std::deque<RawCompletion> arrived_;
  std::vector<RawRead> reads_;
  std::size_t drops_ = 0;
  bool withhold_next_ = false;
  bool refuse_next_submit_ = false;
  bool require_direct_ = false;
  WakeSignal wake_;
};

}  // namespace tierstream
