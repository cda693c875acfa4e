#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/io/start_thread.h>
#include <tierstream/tiers/page_cache.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "kept_file.h"

namespace tierstream {
namespace {

/// One disk is kept busy by a few reads at a time; of cached pages each thread copies 4 GB/s.
constexpr std::size_t kThreads = 4;

}  // namespace

class FilePageCache::Loader {
 public:
  Loader(const LayerTable& table, const Plan& plan, Device& device, const Budgets& budgets, bool locks,
         std::function<void()> on_progress, Loader* before)
      : table_{.files = table.files, .open_storage = table.open_storage, .layers = {}, .outside = {}},
        device_(device),
        locks_(locks),
        request_bytes_(plan.rules.request_bytes),
        on_progress_(std::move(on_progress)),
        files_(table.files.size()),
        brought_(plan.kept),
        layers_(table.layers.size()) {
    brought_.clear();
    const std::vector<ChunkSet::Range> ranges = plan.kept.ranges();
    for (const ChunkSet::Range& range : ranges) {
      std::shared_ptr<KeptFile>& file = files_[range.file];
      if (!file && before != nullptr) file = before->files_[range.file];
      if (!file) file = make_kept_file(table, range.file);
    }
    std::deque<Run> left;
    if (before != nullptr) {
      before->threads_.clear();  // they note what they have brought
      brought_ = before->brought_;
      brought_.keep_only(plan.kept);
      for (std::size_t i = 0; i < layers_.size(); ++i) {
        layers_[i].read_bytes = before->layers_[i].read_bytes.exchange(0);
      }
      left = before->give_up(plan.kept);
    }
    const Budget bytes = bytes_by_tier(table, plan.kept);
    page_cache_ = budgets.page_cache.reserve(bytes.page_cache, "the kept pages");
    pinned_ = budgets.pinned.reserve(bytes.pinned, "what is kept in pinned memory");
    for (const ChunkSet::Range& range : ranges) add_runs(range, left);
    if (before != nullptr) take_over_status(before->status_);
    left.clear();  // what it still has registered would be in the way of the new runs
    for (std::uint32_t layer = 0; layer < layers_.size(); ++layer) find_runs_of(table, plan, layer);
    for (std::uint32_t layer = 0; layer < layers_.size(); ++layer) {
      for (const std::size_t run : layers_[layer].runs) {
        if (!runs_[run].is_ready) queue(run);
      }
    }
  }

  void begin() {
    if (runs_.empty()) return;
    for (std::size_t i = 0; i < kThreads; ++i) {
      threads_.push_back(start_thread("kept pages", [this](const std::stop_token& stop) {
        Reader reader(table_, request_bytes_);
        work(stop, reader);
        const std::scoped_lock lock(mutex_);
        ++ended_threads_;
        thread_ended_.notify_all();
      }));
    }
  }

  bool end_threads(std::chrono::nanoseconds timeout) noexcept {
    for (std::jthread& thread : threads_) thread.request_stop();
    {
      std::unique_lock lock(mutex_);
      const auto all_ended = [this] { return ended_threads_ == threads_.size(); };
      if (!thread_ended_.wait_for(lock, timeout, all_ended)) return false;
    }
    threads_.clear();
    return true;
  }

  State state(std::uint32_t layer) const noexcept {
    return layers_[layer].state.load(std::memory_order_acquire);
  }

  void ask_for(std::uint32_t layer) {
    const std::scoped_lock lock(mutex_);
    LayerState& asked = layers_[layer];
    if (asked.state == State::kReady) return;
    for (const std::size_t index : asked.runs) {
      Run& run = runs_[index];
      if (run.error) {
        run.error = nullptr;
        queue(index);
        for (const std::uint32_t other : run.layers) layers_[other].state = State::kComing;
      } else if (run.is_queued) {
        queue_.erase(std::ranges::find(queue_, index));
        queue_.push_front(index);
      }
    }
    asked.state = State::kComing;
    work_to_do_.notify_all();
  }

  std::exception_ptr error(std::uint32_t layer) const {
    const std::scoped_lock lock(mutex_);
    for (const std::size_t run : layers_[layer].runs) {
      if (runs_[run].error) return runs_[run].error;
    }
    return nullptr;
  }

  bool is_registered(std::uint32_t layer) const noexcept { return layers_[layer].is_registered; }

  std::uint64_t take_read_bytes(std::uint32_t layer) noexcept {
    return layers_[layer].read_bytes.exchange(0, std::memory_order_relaxed);
  }

  const std::byte* address(std::uint32_t file, std::uint64_t offset) const noexcept {
    return files_[file]->data() + offset;
  }

  void split_at_edges(std::vector<MappedCopy>& copies) const {
    std::vector<MappedCopy> split;
    split.reserve(copies.size());
    for (MappedCopy copy : copies) {
      for (auto run = run_at(copy.file, copy.offset); copy.bytes != 0; ++run) {
        const std::uint64_t bytes = std::min(copy.bytes, run->range.end - copy.offset);
        split.push_back({copy.file, copy.offset, copy.slot_offset, bytes});
        copy = {copy.file, copy.offset + bytes, copy.slot_offset + bytes, copy.bytes - bytes};
      }
    }
    copies = std::move(split);
  }

  void drop() noexcept {
    ChunkSet none = brought_;
    none.clear();
    (void)give_up(none);
  }

  Budget reserved_bytes() const noexcept {
    return {.gpu = 0, .pinned = pinned_.bytes(), .page_cache = page_cache_.bytes()};
  }

  void check_files() const {
    for (const auto& file : files_) {
      if (file) file->check_unchanged();
    }
  }

  /// What is not locked is looked for, and read again where it is gone.
  void find_lost() {
    const std::scoped_lock lock(mutex_);
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[i].is_ready && !runs_[i].is_locked && runs_[i].under_way == 0) queue(i);
    }
    work_to_do_.notify_all();
  }

  PageCacheStatus status() const {
    const std::scoped_lock lock(mutex_);
    return status_;
  }

 private:
  /// A run of chunks: read piece by piece by whoever is free, then locked and registered as one.
  struct Run {
    ChunkSet::Range range{};
    std::uint64_t next_piece = 0;  ///< file offset of the first that nobody has begun
    std::uint32_t under_way = 0;   ///< pieces
    std::exception_ptr error;
    bool is_ready = false;  ///< stays so; in the queue once more: to look for lost pages
    bool is_queued = false;
    bool is_locked = false;
    HostRegistration registration;
    std::vector<std::uint32_t> layers;
  };
  struct LayerState {
    std::atomic<State> state = State::kReady;
    std::atomic<std::uint64_t> read_bytes = 0;
    bool is_registered = true;  // written before the state says that it is ready
    std::vector<std::size_t> runs;
  };

  /// Ends the threads, lets go of pages that `next` does not keep, and returns the runs that are ready.
  std::deque<Run> give_up(const ChunkSet& next) {
    threads_.clear();
    for (const std::size_t index : queue_) runs_[index].is_queued = false;  // nor are they in the next one's
    queue_.clear();
    page_cache_ = {};
    pinned_ = {};
    const auto visit_outside = [&](const ChunkSet::Range& range, auto visit) {
      for (std::uint64_t from = range.begin, to = 0; from < range.end; from = to) {
        to = next.stretch_end(range.file, from, range.end);
        if (!next.contains(range.file, next.chunk_of(from))) visit(from, to - from);
      }
    };
    for (Run& run : runs_) {
      visit_outside(run.range, [&](std::uint64_t begin, std::uint64_t bytes) {
        run.registration = {};  // it holds the pages
        files_[run.range.file]->release(begin, bytes);
      });
    }
    for (const ChunkSet::Range& range : brought_.ranges()) {
      visit_outside(
          range, [&](std::uint64_t begin, std::uint64_t bytes) { files_[range.file]->drop(begin, bytes); });
    }
    brought_.clear();
    std::erase_if(runs_, [](const Run& run) { return !run.is_ready; });
    return std::exchange(runs_, {});
  }

  /// Those of `left` that lie whole in `range`, and new ones between them.
  void add_runs(const ChunkSet::Range& range, std::deque<Run>& left) {
    const auto add_new = [&](std::uint64_t begin, std::uint64_t end) {
      if (begin != end) runs_.emplace_back().range = {range.file, begin, end};
    };
    std::uint64_t begin = range.begin;
    for (Run& run : left) {
      if (run.range.file != range.file || run.range.begin < begin || range.end < run.range.end) continue;
      add_new(begin, run.range.begin);
      begin = run.range.end;
      if (run.is_locked) status_.locked_bytes += locked_bytes(run);
      if (run.registration) status_.registered_bytes += begin - run.range.begin;
      run.layers.clear();
      runs_.push_back(std::move(run));
    }
    add_new(begin, range.end);
  }

  /// Runs that were refused something go on without it.
  void take_over_status(const PageCacheStatus& before) {
    status_.lost_bytes = before.lost_bytes;
    const auto lacks = [&](auto part) {
      return std::ranges::any_of(runs_, [&](const Run& run) { return run.is_ready && !(run.*part); });
    };
    if (lacks(&Run::is_locked)) status_.lock_refusal = before.lock_refusal;
    if (lacks(&Run::registration)) status_.registration_refusal = before.registration_refusal;
  }

  /// This one, or one before it, has read all of that piece.
  bool is_brought(std::uint32_t file, std::uint64_t begin, std::uint64_t end) const {
    return brought_.contains(file, brought_.chunk_of(begin)) && brought_.stretch_end(file, begin, end) == end;
  }

  /// The first run that ends behind `offset`.
  std::deque<Run>::const_iterator run_at(std::uint32_t file, std::uint64_t offset) const {
    return std::ranges::upper_bound(runs_, std::pair(file, offset), {},
                                    [](const Run& run) { return std::pair(run.range.file, run.range.end); });
  }

  void find_runs_of(const LayerTable& table, const Plan& plan, std::uint32_t layer) {
    LayerState& own = layers_[layer];
    const auto add = [&](std::uint32_t file, std::uint64_t begin, std::uint64_t end) {
      for (auto i = static_cast<std::size_t>(run_at(file, begin) - runs_.begin());
           i < runs_.size() && runs_[i].range.file == file && runs_[i].range.begin < end; ++i) {
        if (std::ranges::find(own.runs, i) != own.runs.end()) continue;
        own.runs.push_back(i);
        runs_[i].layers.push_back(layer);
        if (!runs_[i].is_ready) own.state = State::kComing;
        own.is_registered = own.is_registered && (!runs_[i].is_ready || runs_[i].registration);
      }
    };
    for (const MappedCopy& copy : plan.layers[layer].mapped_copies) {
      add(copy.file, copy.offset, copy.offset + copy.bytes);
    }
    const std::vector<TensorSpec>& tensors = table.layers[layer].tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (plan.homes[layer][i] != TensorHome::kMapped) continue;
      const auto& extent = std::get<FileExtent>(tensors[i].source);
      add(extent.file, extent.offset, extent.offset + tensors[i].bytes);
    }
  }

  /// With the mutex held, or before the threads begin.
  void queue(std::size_t index) {
    Run& run = runs_[index];
    if (std::exchange(run.is_queued, true)) return;
    run.next_piece = run.range.begin;
    queue_.push_back(index);
  }

  void work(const std::stop_token& stop, Reader& reader) {
    try {
      device_.enter_staging_thread();  // registering must not break a capture of the caller's
    } catch (const Error&) {           // what then fails to register is recorded there
    }
    std::unique_lock lock(mutex_);
    while (work_to_do_.wait(lock, stop, [this] { return !queue_.empty(); }) && !stop.stop_requested()) {
      const std::size_t index = queue_.front();
      Run& run = runs_[index];
      const std::uint64_t begin = run.next_piece;
      const std::uint64_t end = std::min(run.range.end, begin + kChunkBytes);
      run.next_piece = end;
      if (end == run.range.end) {
        queue_.pop_front();
        run.is_queued = false;
      }
      ++run.under_way;
      const bool looks_for_lost = run.is_ready;
      const bool was_there = looks_for_lost || is_brought(run.range.file, begin, end);
      lock.unlock();
      const KeptFile& file = *files_[run.range.file];
      const bool is_there = file.is_there(begin, end, was_there);
      std::exception_ptr error;
      try {
        if (!is_there) file.read(begin, end, reader);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      --run.under_way;
      if (!is_there && !error) {
        count_read(run, end - begin, looks_for_lost);
        brought_.insert({run.range.file, brought_.chunk_of(begin), brought_.chunk_of(end - 1)});
      }
      if (looks_for_lost) continue;  // a page that cannot be read again faults in, or fails, where it is used
      if (error && !run.error) {
        run.error = error;
        if (std::exchange(run.is_queued, false)) std::erase(queue_, index);
        run.next_piece = run.range.end;
      }
      if (run.under_way != 0 || run.next_piece != run.range.end) continue;
      if (!run.error) {
        lock.unlock();
        try {
          prepare(run);
        } catch (...) {
          error = std::current_exception();
        }
        lock.lock();
        run.error = error;
      }
      finish(run);
      lock.unlock();
      on_progress_();
      lock.lock();
    }
  }

  /// Pinned memory needs no lock.
  std::uint64_t locked_bytes(const Run& run) const {
    return table_.files[run.range.file].info.is_local_file ? run.range.end - run.range.begin : 0;
  }

  /// Locks and registers: 2 ms for 64 MiB, beside the staging loop.
  void prepare(Run& run) {
    auto* const begin = const_cast<std::byte*>(address(run.range.file, run.range.begin));
    const std::size_t bytes = run.range.end - run.range.begin;
    const KeptFile& file = *files_[run.range.file];
    const std::string lock_refusal = file.lock(run.range.begin, bytes, locks_);
    std::string refusal;
    {
      // One at a time, as the driver does it anyhow: the first copies then wait for one, not for four.
      const std::scoped_lock lock(registering_);
      run.registration = device_.register_host({begin, bytes}, refusal, file.access());
    }
    const std::scoped_lock lock(mutex_);
    run.is_locked = lock_refusal.empty();
    if (run.is_locked) {
      status_.locked_bytes += locked_bytes(run);
    } else if (status_.lock_refusal.empty()) {
      status_.lock_refusal = lock_refusal;
    }
    if (run.registration) {
      status_.registered_bytes += bytes;
    } else if (status_.registration_refusal.empty()) {
      status_.registration_refusal = refusal;
    }
  }

  /// With the mutex held.
  void count_read(const Run& run, std::uint64_t bytes, bool was_lost) {
    if (was_lost) status_.lost_bytes += bytes;
    std::uint64_t left = bytes;  // in equal shares: whose they are is not known that exactly
    for (std::size_t sharers = run.layers.size(); const std::uint32_t layer : run.layers) {
      const std::uint64_t share = left / sharers--;
      layers_[layer].read_bytes.fetch_add(share, std::memory_order_relaxed);
      left -= share;
    }
  }

  /// With the mutex held.
  void finish(Run& run) {
    run.is_ready = run.error == nullptr;
    for (const std::uint32_t index : run.layers) {
      LayerState& layer = layers_[index];
      if (run.error) {
        layer.state = State::kFailed;
        continue;
      }
      layer.is_registered = layer.is_registered && run.registration;
      if (std::ranges::all_of(layer.runs, [this](std::size_t i) { return runs_[i].is_ready; })) {
        layer.state.store(State::kReady, std::memory_order_release);
      }
    }
  }

  const LayerTable table_;  // its files alone
  Device& device_;
  const bool locks_;
  const std::uint64_t request_bytes_;
  Reservation page_cache_;
  Reservation pinned_;
  const std::function<void()> on_progress_;
  std::vector<std::shared_ptr<KeptFile>> files_;  // null: nothing of it is kept; leases use what is mapped
  ChunkSet brought_;                              // where they were not
  std::deque<LayerState> layers_;
  std::deque<Run> runs_;  // in the order of files and offsets

  std::mutex registering_;
  mutable std::mutex mutex_;
  std::condition_variable_any work_to_do_;
  std::deque<std::size_t> queue_;  // runs with pieces to read, most urgent first
  PageCacheStatus status_;
  std::size_t ended_threads_ = 0;
  std::condition_variable_any thread_ended_;
  std::vector<std::jthread> threads_;  // last: they end before what they use
};

FilePageCache::FilePageCache(const LayerTable& table, const Plan& plan, Device& device,
                             const Budgets& budgets, bool locks, std::function<void()> on_progress,
                             FilePageCache* before)
    : loader_(std::make_unique<Loader>(table, plan, device, budgets, locks, std::move(on_progress),
                                       before != nullptr ? before->loader_.get() : nullptr)) {}

FilePageCache::~FilePageCache() = default;

void FilePageCache::begin() { loader_->begin(); }
PageCache::State FilePageCache::state(std::uint32_t layer) const noexcept { return loader_->state(layer); }
void FilePageCache::ask_for(std::uint32_t layer) { loader_->ask_for(layer); }
std::exception_ptr FilePageCache::error(std::uint32_t layer) const { return loader_->error(layer); }
bool FilePageCache::is_registered(std::uint32_t layer) const noexcept {
  return loader_->is_registered(layer);
}
std::uint64_t FilePageCache::take_read_bytes(std::uint32_t layer) noexcept {
  return loader_->take_read_bytes(layer);
}
const std::byte* FilePageCache::address(std::uint32_t file, std::uint64_t offset) const noexcept {
  return loader_->address(file, offset);
}
void FilePageCache::split_at_edges(std::vector<MappedCopy>& copies) const { loader_->split_at_edges(copies); }
Budget FilePageCache::reserved_bytes() const noexcept { return loader_->reserved_bytes(); }
void FilePageCache::check_files() const { loader_->check_files(); }
void FilePageCache::find_lost() { loader_->find_lost(); }
PageCacheStatus FilePageCache::status() const { return loader_->status(); }
void FilePageCache::drop() noexcept { loader_->drop(); }
bool FilePageCache::end_threads(std::chrono::nanoseconds timeout) noexcept {
  return loader_->end_threads(timeout);
}

}  // namespace tierstream
