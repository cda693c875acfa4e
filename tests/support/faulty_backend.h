#pragma once

#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace tierstream {

/// How often a raw read of a FaultyBackend goes wrong: probabilities, 0 to 1.
struct FaultRates {
  double short_read = 0;
  double interrupted = 0;  ///< EINTR
  double busy = 0;         ///< EAGAIN
  double io_error = 0;     ///< EIO
  double late = 0;         ///< of `collect` to leave a read under way once more
};

/// Files in memory whose reads end in an order, after a delay and with faults that follow from a seed alone.
/// It has no thread and never waits: a `collect` that has nothing returns 0 at once, so that a simulation
/// goes on.
class FaultyBackend final : public StorageBackend {
 public:
  FaultyBackend(std::shared_ptr<const MemoryFiles> files, std::uint64_t seed, FaultRates rates,
                StorageLimits limits = {}, std::uint32_t alignment = 1)
      : StorageBackend(limits),
        contents_(std::move(files)),
        random_(seed),
        rates_(rates),
        alignment_(alignment) {}

  /// Faults that were injected, of all kinds but `late`.
  std::uint64_t faults() const { return faults_; }

 private:
  FileInfo do_open(FileId, const std::string& path) override {
    const auto found = contents_->find(path);
    if (found == contents_->end()) {
      throw Error(Errc::kOpenFailed, "there is no such file", {.file = path, .backend = "faulty"},
                  std::make_error_code(std::errc::no_such_file_or_directory));
    }
    open_.push_back(found->second);
    return {.bytes = found->second.size(), .offset_alignment = alignment_, .memory_alignment = alignment_};
  }

  void do_submit(std::span<const RawRead> reads) override {
    under_way_.insert(under_way_.end(), reads.begin(), reads.end());
  }

  std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds) override {
    std::size_t count = 0;
    std::size_t looked_at = under_way_.size();
    while (count < completions.size() && looked_at-- > 0) {
      std::swap(under_way_[random_() % under_way_.size()], under_way_.back());
      if (happens(rates_.late)) continue;
      completions[count++] = {under_way_.back().id, carry_out(under_way_.back())};
      under_way_.pop_back();
    }
    return count;
  }

  std::int64_t carry_out(const RawRead& read) {
    const std::span<const std::byte> content =
        open_[static_cast<std::size_t>(read.file)].subspan(read.offset);
    std::size_t bytes = std::min(content.size(), read.destination.size());
    if (fault(rates_.interrupted)) return -EINTR;
    if (fault(rates_.busy)) return -EAGAIN;
    if (fault(rates_.io_error)) return -EIO;
    if (bytes > 1 && fault(rates_.short_read)) bytes = 1 + random_() % (bytes - 1);
    std::memcpy(read.destination.data(), content.data(), bytes);
    return static_cast<std::int64_t>(bytes);
  }

  bool happens(double probability) {
    return probability > 0 && static_cast<double>(random_() >> 11) * 0x1p-53 < probability;
  }
  bool fault(double probability) {
    const bool happened = happens(probability);
    faults_ += happened;
    return happened;
  }

  void do_wake() noexcept override {}
  StoragePath do_path() const override { return {.backend = "faulty"}; }

  std::shared_ptr<const MemoryFiles> contents_;
  std::mt19937_64 random_;  // not a distribution: those differ between standard libraries
  FaultRates rates_;
  std::uint32_t alignment_;
  std::vector<std::span<const std::byte>> open_;
  std::vector<RawRead> under_way_;
  std::uint64_t faults_ = 0;
};

}  // namespace tierstream
