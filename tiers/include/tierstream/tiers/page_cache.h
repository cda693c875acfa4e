#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/device.h>
#include <tierstream/tiers/plan.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace tierstream {

struct PageCacheStatus {
  std::string lock_refusal;          ///< why pages are not locked (mlock); empty: all are
  std::string registration_refusal;  ///< why some are not registered for DMA; empty: all are
  std::uint64_t locked_bytes = 0;
  std::uint64_t registered_bytes = 0;
  std::uint64_t lost_bytes = 0;  ///< found gone from the page cache, and read again, by chunks
};

/// File pages that the program keeps, as the staging loop sees them: mapped memory that becomes ready layer
/// by layer. Threads: one, the staging thread, where a member does not say otherwise.
class PageCache {
 public:
  enum class State : std::uint8_t { kComing, kReady, kFailed };

  virtual ~PageCache() = default;

  /// Starts bringing what is kept. Called once, when nothing else is to be allocated on the device: while a
  /// device registers memory, whoever asks it for something waits.
  virtual void begin() = 0;
  /// Of everything that the plan keeps of `layer`. Ready stays ready.
  virtual State state(std::uint32_t layer) const noexcept = 0;
  /// Makes `layer` the next to come; one that failed is tried again.
  virtual void ask_for(std::uint32_t layer) = 0;
  /// Why it failed.
  virtual std::exception_ptr error(std::uint32_t layer) const = 0;
  /// False: the device cannot copy from the pages of `layer` at its link's speed, because registering some of
  /// them was refused. Of a layer that is ready.
  virtual bool is_registered(std::uint32_t layer) const noexcept = 0;
  /// Bytes read from storage for `layer` since the last call.
  virtual std::uint64_t take_read_bytes(std::uint32_t layer) noexcept = 0;
  /// Where the file's byte at `offset`, of a chunk that the plan keeps, is mapped; any thread. The same for
  /// whoever took it over.
  virtual const std::byte* address(std::uint32_t file, std::uint64_t offset) const noexcept = 0;
  /// Cuts copies where what is registered as one ends: none may cross that.
  virtual void split_at_edges(std::vector<MappedCopy>& copies) const = 0;
  /// Reserved of the tiers' budgets.
  virtual Budget reserved_bytes() const noexcept = 0;

  /// Throws Error kFileChanged for a file that was written to or cut since the table was made. Any thread.
  virtual void check_files() const = 0;
  /// Looks, beside everything else, whether pages were lost, and reads these again. Any thread.
  virtual void find_lost() = 0;
  /// Any thread.
  virtual PageCacheStatus status() const = 0;
  /// Gives its pages back: from the system's cache, too, what this one has read into it. Nothing is asked of
  /// it any more but `address`; what is used there comes by page faults.
  virtual void drop() noexcept = 0;
  /// Has threads of its own end, and waits up to `timeout` for them. Nothing is asked of it any more but
  /// `address` and `status`. False: one goes on, and uses the device and its budgets.
  virtual bool end_threads(std::chrono::nanoseconds) noexcept { return true; }
};

/// The page-cache tier: reads the plan's chunks once into the page cache, by several threads, maps them
/// shared and read-only, locks them and registers them for DMA, run by run (ChunkSet::ranges), so that
/// devices read them where they lie. What is not locked the system may drop: `find_lost` has it read
/// again; what is used before that comes by page faults.
///
/// Of a file of another backend, which has no pages to map, it keeps a copy in memory of this process, read
/// once through a storage of its own; that counts as pinned.
///
/// That of another plan takes over the mappings, and the runs that both plans keep.
///
/// A file replaced by renaming goes on with its old content. A file cut while its pages are used raises
/// SIGBUS: `check_files` narrows that race but cannot close it; see `mapped_file_at`.
/// Threads: `status` and `check_files` may be called from any thread. `on_progress` is called from its own
/// threads when a layer has become ready or has failed.
class FilePageCache final : public PageCache {
 public:
  struct Budgets {
    TierBudget& page_cache;
    TierBudget& pinned;  ///< for what has no file pages
  };
  /// Holds `budgets` for the plan's chunks. `locks`: false leaves file pages to the system, which may drop
  /// them when memory is short. Throws Error kOpenFailed, kFileChanged, kOutOfMemory. `table`, `plan` and
  /// `device` outlive it. `before` (null: none), of the same table, device and budgets, keeps from then on
  /// nothing but its memory: addresses of what both plans keep stay good; no copy from it is under way, and
  /// nothing but `address`, `status` and its end is asked of it any more. What only `before` keeps is given
  /// back as by `drop`.
  FilePageCache(const LayerTable& table, const Plan& plan, Device& device, const Budgets& budgets, bool locks,
                std::function<void()> on_progress, FilePageCache* before = nullptr);
  /// Ends its threads; copies from its memory must be done. Pages stay in the system's cache for whoever
  /// comes next.
  ~FilePageCache() override;

  void begin() override;
  State state(std::uint32_t layer) const noexcept override;
  void ask_for(std::uint32_t layer) override;
  std::exception_ptr error(std::uint32_t layer) const override;
  bool is_registered(std::uint32_t layer) const noexcept override;
  std::uint64_t take_read_bytes(std::uint32_t layer) noexcept override;
  const std::byte* address(std::uint32_t file, std::uint64_t offset) const noexcept override;
  void split_at_edges(std::vector<MappedCopy>& copies) const override;
  Budget reserved_bytes() const noexcept override;

  /// Compares sizes and times of change.
  void check_files() const override;
  void find_lost() override;
  PageCacheStatus status() const override;
  void drop() noexcept override;
  bool end_threads(std::chrono::nanoseconds timeout) noexcept override;

 private:
  class Loader;
  std::unique_ptr<Loader> loader_;
};

/// The path of the file that a FilePageCache maps at `address`; null: none. Async-signal-safe, so that a
/// handler of SIGBUS can name the file that was cut.
const char* mapped_file_at(const void* address) noexcept;

}  // namespace tierstream
