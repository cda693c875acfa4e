#pragma once

#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/io/storage_backend.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace tierstream::simulation {

struct StorageFaults {
  double late = 0.5;  ///< a read under way stays so at a `collect`
  double short_read = 0;
  double interrupted = 0;
  double busy = 0;
  double io_error = 0;
  double cached = 0;             ///< a read is had from the page cache
  bool completes_early = false;  ///< a lie: the completion comes before the bytes
  bool loses_wakes = false;      ///< a lie, too
};

/// Files in memory whose reads end late, in any order, short or with errors. A read's destination is
/// overwritten with rubbish the moment the read starts, as a disk may do: bytes still needed there show as
/// wrong.
class SimulatedStorage final : public StorageBackend {
 public:
  using StorageBackend::RawRead;

  struct Failure {
    std::string path;
    std::uint64_t offset;
  };

  SimulatedStorage(std::mt19937_64& random, std::shared_ptr<const MemoryFiles> files, std::uint32_t alignment,
                   StorageFaults faults, const StorageLimits& limits)
      : StorageBackend(limits),
        random_(random),
        files_(std::move(files)),
        alignment_(alignment),
        faults_(faults) {}

  /// Every read that was answered with an I/O error.
  const std::vector<Failure>& failures() const { return failures_; }
  /// Every read that is under way.
  const std::vector<RawRead>& under_way() const { return under_way_; }
  void heal() { faults_.io_error = 0; }
  /// Who waits in it waits for a wake: the loop may not be stepped before one.
  bool sleeps() const { return sleeps_ && in_flight() == 0; }
  /// Told of every read's destination when it is submitted.
  void watch(std::function<void(std::span<const std::byte>)> on_read) { on_read_ = std::move(on_read); }

 private:
  FileInfo do_open(FileId, const std::string& path) override {
    contents_.push_back(files_->at(path));
    return {.bytes = contents_.back().size(), .offset_alignment = alignment_, .memory_alignment = alignment_};
  }

  bool do_is_cached(FileId, std::uint64_t, std::uint64_t) override { return happens(faults_.cached); }

  void do_submit(std::span<const RawRead> reads) override {
    if (on_read_) {
      for (const RawRead& read : reads) on_read_(read.destination);
    }
    for (const RawRead& read : reads) std::memset(read.destination.data(), 0xEE, read.destination.size());
    under_way_.insert(under_way_.end(), reads.begin(), reads.end());
  }

  std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds wait) override {
    std::erase_if(still_to_write_, [&](const auto& write) {
      if (happens(0.8)) return false;
      std::memcpy(write.first.data(), write.second.data(), write.second.size());
      return true;
    });
    std::size_t count = 0;
    for (std::size_t looked_at = under_way_.size(); looked_at > 0 && count < completions.size();
         --looked_at) {
      std::swap(under_way_[random_() % under_way_.size()], under_way_.back());
      if (happens(faults_.late)) continue;
      completions[count++] = {under_way_.back().id, carry_out(under_way_.back())};
      under_way_.pop_back();
    }
    sleeps_ = count == 0 && wait > kLongWait && !std::exchange(woken_, false);
    return count;
  }

  std::int64_t carry_out(const RawRead& read) {
    const auto index = static_cast<std::uint32_t>(read.file);
    std::span<const std::byte> source = std::span(contents_[index]).subspan(read.offset);
    source = source.first(std::min(source.size(), read.destination.size()));
    if (happens(faults_.interrupted)) return -EINTR;
    if (happens(faults_.busy)) return -EAGAIN;
    if (happens(faults_.io_error)) {
      failures_.push_back({path_of(read.file), read.offset});
      return -EIO;
    }
    // The shell takes a read that ends at the same place eight times for the end of the file.
    int& shorts_here = shorts_at_[{index, read.offset}];
    if (source.size() > 1 && shorts_here < 5 && happens(faults_.short_read)) {
      ++shorts_here;
      source = source.first(1 + random_() % source.size());
    } else {
      shorts_here = 0;
    }
    if (faults_.completes_early) {
      still_to_write_.emplace_back(read.destination, source);
    } else {
      std::memcpy(read.destination.data(), source.data(), source.size());
    }
    return static_cast<std::int64_t>(source.size());
  }

  bool happens(double probability) { return static_cast<double>(random_() >> 11) * 0x1p-53 < probability; }

  void do_wake() noexcept override {
    if (!faults_.loses_wakes) woken_ = !std::exchange(sleeps_, false);
  }
  StoragePath do_path() const override { return {.backend = "simulated"}; }

  std::mt19937_64& random_;
  std::shared_ptr<const MemoryFiles> files_;
  std::uint32_t alignment_;
  /// Longer than any interval at which something is looked for again.
  static constexpr std::chrono::seconds kLongWait{1};

  StorageFaults faults_;
  bool sleeps_ = false;
  bool woken_ = false;  // before it sleeps
  std::function<void(std::span<const std::byte>)> on_read_;
  std::map<std::pair<std::uint32_t, std::uint64_t>, int> shorts_at_;  // by file and offset, in a row
  std::vector<std::span<const std::byte>> contents_;
  std::vector<RawRead> under_way_;
  std::vector<std::pair<std::span<std::byte>, std::span<const std::byte>>> still_to_write_;
  std::vector<Failure> failures_;
};

}  // namespace tierstream::simulation
