#include "streamer_core.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/cpu_device.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <ranges>
#include <system_error>
#include <utility>

namespace tierstream {
namespace {

/// The machine's limits, before anything is allocated: memory that is given out untouched would be missed
/// only when it is written to, by an end of the process.
void refuse_more_than_there_is(const Budget& used, Device& device) {
  const auto refuse_beyond = [](const MemoryRoom& room, std::uint64_t bytes, std::string_view what) {
    if (bytes <= room.bytes) return;
    throw Error(Errc::kOutOfMemory, fmt::format("{}: {} needed, {} left by {}", what, format_exactly(bytes),
                                                format_exactly(room.bytes), room.limited_by));
  };
  const MemoryRoom host = host_memory_room();
  if (device.traits().is_host) {
    return refuse_beyond(host, used.gpu + used.pinned + used.page_cache, "all tiers together");
  }
  refuse_beyond(device.memory_room(), used.gpu, "gpu");
  refuse_beyond(host, used.pinned + used.page_cache, "pinned and page_cache together");
}

/// What is left of `all` beside `part`.
Budget less(const Budget& all, const Budget& part) {
  return {.gpu = all.gpu - std::min(all.gpu, part.gpu),
          .pinned = all.pinned - std::min(all.pinned, part.pinned),
          .page_cache = all.page_cache - std::min(all.page_cache, part.page_cache)};
}

/// One that names what `table` does not have.
void refuse_wrong(const TensorChange& change, const LayerTable& table) {
  const auto refuse = [](const std::string& why, ErrorPlace place = {}) {
    throw Error(Errc::kInvalidArgument, "cannot replace " + why, std::move(place));
  };
  if (change.layer >= table.layers.size()) {
    refuse(fmt::format("a tensor of layer {}: there are {}", change.layer, table.layers.size()));
  }
  const Layer& layer = table.layers[change.layer];
  if (change.tensor >= layer.tensors.size()) {
    refuse(fmt::format("tensor {} of {}: there are {}", change.tensor, layer.name, layer.tensors.size()));
  }
  const auto* const extent = std::get_if<FileExtent>(&change.source);
  if (extent == nullptr) return;
  const std::string name = layer.full_name(layer.tensors[change.tensor]);
  if (extent->file >= table.files.size()) {
    refuse(fmt::format("{} by bytes of file {}: there are {}", name, extent->file, table.files.size()));
  }
  const SourceFile& file = table.files[extent->file];
  if (extent->offset > file.info.bytes || change.bytes > file.info.bytes - extent->offset) {
    refuse(fmt::format("{} by {} bytes: the file ends at {}", name, change.bytes, file.info.bytes),
           {.file = file.path, .offset = extent->offset});
  }
}

Trace::Subject subject_of(const LayerTable& table, const Plan& plan) {
  Trace::Subject subject{.ring_blocks = plan.ring.blocks};
  for (const Layer& layer : table.layers) subject.layers.push_back(layer.name);
  return subject;
}

void warn_on_stderr(std::string_view line) {
  std::fprintf(stderr, "tierstream: %.*s\n", static_cast<int>(line.size()), line.data());
}

}  // namespace

std::size_t find_tensor(const Layer& layer, std::string_view name) {
  const auto found = std::ranges::find(layer.tensors, name, &TensorSpec::name);
  if (found != layer.tensors.end()) return static_cast<std::size_t>(found - layer.tensors.begin());
  constexpr std::size_t kShown = 20;
  std::string known;
  for (const TensorSpec& tensor : layer.tensors | std::views::take(kShown)) {
    known += fmt::format("{}\"{}\"", known.empty() ? "" : ", ", tensor.name);
  }
  if (layer.tensors.size() > kShown) known += ", ...";
  throw Error(Errc::kTensorMissing,
              fmt::format("no tensor \"{}\" in {}; there are: {}", name,
                          layer.name.empty() ? "those outside the layers" : layer.name, known));
}

StreamerCore::StreamerCore(LayerTable table, StreamerOptions options)
    : table_(std::move(table)),
      options_(std::move(options)),
      device_(options_.device ? options_.device : make_cpu_device()),
      gpu_("gpu", options_.budget.gpu),
      pinned_("pinned", options_.budget.pinned),
      page_cache_("page_cache", options_.budget.page_cache),
      trace_(options_.trace.get(), clock_),
      order_(table_.layers.size()),
      timer_(*device_) {
  if (!options_.warn) options_.warn = warn_on_stderr;
  std::iota(order_.begin(), order_.end(), 0u);
  Plan plan = make_plan_for(table_, options_.budget);
  refuse_more_than_there_is(plan.used, *device_);
  storage_ = open_files(table_);
  allocate_outside(plan);
  staging_ = std::make_shared<Staging>(ground(), std::move(plan), 1, outside_.data(), false, nullptr);
  staging_->register_memory(options_.register_slots);  // here, so that a requirement that is not met throws
  thread_.emplace(*device_, *storage_, options_.end_timeout);
  // Last: a trace is begun once, and the caller may try again with it.
  if (options_.trace) options_.trace->begin(subject_of(table_, staging_->plan()));
  thread_->start(*staging_);
  populate();
}

std::shared_ptr<Staging> StreamerCore::staging() const noexcept {
  const std::scoped_lock lock(staging_mutex_);
  return staging_;
}

/// Speed alone depends on it.
void StreamerCore::populate() noexcept {
  try {
    populating_ = std::jthread([staging = staging_.get()](auto stop) { staging->populate(stop); });
  } catch (const std::system_error&) {
  }
}

StreamerCore::~StreamerCore() {
  stop();
  thread_.reset();
  staging_.reset();
  // Its end would wait for the reads, and somebody may still tell it of a copy.
  if (!hang_.empty()) (void)storage_.release();
}

Plan StreamerCore::make_plan_for(const LayerTable& table, const Budget& budget,
                                 const TensorHomes* held) const {
  return make_plan(table, budget, {},
                   {.reads_land = device_->traits().reads_land,
                    .is_host = device_->traits().is_host,
                    .allocation_bytes = device_->traits().allocation_bytes,
                    .max_slots = options_.max_slots,
                    .request_bytes = options_.request_bytes,
                    .layer_seconds = {},
                    .held = held});
}

StagingGround StreamerCore::ground() {
  return {.table = table_,
          .storage = *storage_,
          .device = *device_,
          .gpu = gpu_,
          .pinned = pinned_,
          .page_cache = page_cache_,
          .make_pages =
              [this](const Plan& plan, PageCache* before) {
                return std::make_unique<FilePageCache>(
                    table_, plan, *device_, FilePageCache::Budgets{page_cache_, pinned_}, options_.lock_pages,
                    [storage = storage_.get()] { storage->wake(); }, static_cast<FilePageCache*>(before));
              },
          .clock = clock_,
          .trace = trace_,
          .stable_slots = options_.stable_slots,
          .poison = options_.poison};
}

void StreamerCore::allocate_outside(const Plan& plan) {
  outside_reservation_ = gpu_.reserve(plan.outside.slot_bytes, "tensors outside the layers");
  outside_ = device_->allocate(plan.outside.slot_bytes);
  outside_is_there_ = false;
}

void StreamerCore::stop() noexcept {
  populating_.request_stop();
  if (populating_.joinable()) populating_.join();
  if (!thread_) return;
  std::string why = thread_->stop();
  if (why.empty()) return;
  hang_ = std::move(why);
  // Someone may still write to this memory: freeing it would be worse than losing it.
  const bool device_is_free = staging_->leave_to_leak();
  outside_.abandon();
  try {
    if (!device_is_free) (void)new std::shared_ptr<Device>(device_);  // never goes
    options_.warn(fmt::format("{}: {} of memory are left to leak", hang_,
                              format_bytes(gpu_.used_bytes() + pinned_.used_bytes())));
  } catch (...) {  // a warning that cannot be given is lost, nothing else
  }
}

void StreamerCore::close() {
  const std::scoped_lock staging_lock(staging_mutex_);
  if (state_ == State::kClosed) return;
  refuse_beside_leases("close()");
  stop();
  final_path_ = path_of(*staging_);
  final_pages_ = staging_->page_cache_status();
  {
    const std::scoped_lock lock(stats_mutex_);
    try {
      timer_.resolve_all();
    } catch (const Error&) {  // the device has failed: the last pass stays without its time
    }
    final_stats_ = counted(*staging_);
  }
  state_ = State::kClosed;
  thread_.reset();
  if (hang_.empty()) {
    staging_->retire();
    staging_->free_kept(false);
  }
  outside_ = {};
  outside_reservation_ = {};
  if (!hang_.empty()) (void)storage_.release();  // somebody may still tell it of a copy
  storage_.reset();
}

void StreamerCore::refuse_beside_leases(std::string_view what) const {
  if (const std::uint32_t leases = staging_->hand_off().leases(); leases != 0) {
    const std::string out =
        leases == 1 ? "1 lease is out; end it" : fmt::format("{} leases are out; end them", leases);
    throw Error(Errc::kLeasesOutstanding, fmt::format("{} before {}", out, what));
  }
  if (held() != Budget{} || leases_of_before()) {
    throw Error(Errc::kLeasesOutstanding,
                fmt::format("leases of before the budget was changed are out; end them before {}", what));
  }
}

void StreamerCore::refuse_unless_running() const {
  if (state_ == State::kClosed) throw Error(Errc::kClosed, "the streamer is closed");
  if (state_ == State::kParked) throw Error(Errc::kClosed, "the streamer is parked; resume() it first");
}

// --- Changes of the budget ---

/// What leases hold that were given before the last change, and that the present Staging does not have.
Budget StreamerCore::held() const noexcept {
  Budget now = staging_->is_retired() ? Budget{} : staging_->plan().used;
  if (!staging_->is_retired()) now.pinned += staging_->ram().reserved_bytes();
  const std::uint64_t outside = staging_->is_retired() ? outside_reservation_.bytes() : 0;
  return {.gpu = gpu_.used_bytes() - now.gpu - outside,
          .pinned = pinned_.used_bytes() - now.pinned,
          .page_cache = page_cache_.used_bytes() - now.page_cache};
}

bool StreamerCore::leases_of_before() const noexcept {
  return std::ranges::any_of(before_, [](const std::weak_ptr<Staging>& before) {
    const std::shared_ptr<Staging> staging = before.lock();
    return staging && staging->hand_off().leases() != 0;
  });
}

/// Brings what is under way to its end and frees all that no lease uses, nor the next Staging may.
void StreamerCore::end_staging() {
  stop();
  if (!hang_.empty()) {
    const Error error(Errc::kInternal, hang_ + ": the budget cannot be changed any more");
    staging_->hand_off().fail_for_good(std::make_exception_ptr(error));
    throw error;
  }
  if (staging_->is_retired()) return;
  outside_is_there_ = outside_is_there_ || staging_->loop().is_there(layer_count());
  staging_->retire();
  std::erase_if(before_, [](const std::weak_ptr<Staging>& before) { return before.expired(); });
  before_.push_back(staging_);
}

void StreamerCore::begin_staging(Plan plan) {
  const std::shared_ptr<Staging> before = std::move(staging_);
  staging_ = before;  // in case the next cannot be made
  std::shared_ptr<Staging> next;
  try {
    next = std::make_shared<Staging>(ground(), std::move(plan), before->generation() + 1, outside_.data(),
                                     outside_is_there_, before.get());
  } catch (...) {
    before->free_kept(false);
    throw;
  }
  next->hand_off().carry_on(before->hand_off());
  staging_ = std::move(next);
  thread_->start(*staging_,
                 [this, staging = staging_.get()] { staging->register_memory(options_.register_slots); });
  populate();
}

/// As much of the budget as leases of before leave. Where that is too little, nothing is staged until they
/// end. `staging_` is retired.
void StreamerCore::begin_staging_in_room() {
  const Budget kept = staging_->kept();
  const Budget taken = less(held(), kept);
  is_crowded_ = taken != Budget{} || leases_of_before();
  TensorHomes homes = all_streamed(table_);
  for (const std::weak_ptr<Staging>& before : before_) {
    if (const std::shared_ptr<Staging> staging = before.lock()) staging->add_held(homes);
  }
  std::optional<Plan> plan;
  try {
    plan = make_plan_for(table_, less(options_.budget, taken), is_crowded_ ? &homes : nullptr);
    Budget needed = less(plan->used, kept);
    needed.gpu -= std::min(needed.gpu, outside_reservation_.bytes());
    refuse_more_than_there_is(needed, *device_);
  } catch (const Error& error) {
    staging_->free_kept(!leases_of_before());
    if (is_crowded_ && error.errc() == Errc::kBudgetTooSmall) return;
    throw;
  }
  begin_staging(std::move(*plan));
}

Budget StreamerCore::set_budget(const Budget& budget) {
  const std::scoped_lock lock(staging_mutex_);
  if (state_ == State::kClosed) refuse_unless_running();
  (void)make_plan_for(table_, budget);  // one that is too small changes nothing
  end_staging();
  options_.budget = budget;
  gpu_.set_limit(budget.gpu);
  pinned_.set_limit(budget.pinned);
  page_cache_.set_limit(budget.page_cache);
  if (state_ == State::kRunning) begin_staging_in_room();
  return held();
}

void StreamerCore::replace(std::span<const TensorChange> changes) {
  const std::scoped_lock lock(staging_mutex_);
  refuse_unless_running();
  refuse_beside_leases("tensors are replaced");
  for (const TensorChange& change : changes) refuse_wrong(change, table_);
  std::vector<Layer> layers = table_.layers;
  for (const TensorChange& change : changes) {
    TensorSpec& tensor = layers[change.layer].tensors[change.tensor];
    tensor = {std::move(tensor.name), change.dtype, change.shape, change.bytes, change.source};
  }
  const LayerTable changed{table_.files, table_.open_storage, layers, table_.outside};
  (void)make_plan_for(changed, options_.budget);  // one that is too small changes nothing
  end_staging();
  for (const TensorChange& change : changes) staging_->forget(change.layer);
  std::swap(table_.layers, layers);
  try {
    begin_staging_in_room();
  } catch (...) {
    std::swap(table_.layers, layers);
    throw;
  }
}

Budget StreamerCore::park() {
  const std::scoped_lock lock(staging_mutex_);
  refuse_unless_running();
  end_staging();
  staging_->free_kept(!leases_of_before());
  state_ = State::kParked;
  outside_ = {};
  outside_reservation_ = {};
  outside_is_there_ = false;
  return held();
}

void StreamerCore::resume() {
  const std::scoped_lock lock(staging_mutex_);
  if (state_ != State::kParked) return;
  allocate_outside(staging_->plan());
  state_ = State::kRunning;
  begin_staging_in_room();
}

// --- Leases ---

std::shared_ptr<Staging> StreamerCore::staging_to_acquire_from() {
  const std::scoped_lock lock(staging_mutex_);
  refuse_unless_running();
  if (staging_->is_retired()) begin_staging_in_room();
  if (staging_->is_retired()) {
    const Budget taken = held();
    throw Error(
        Errc::kTooManyLeases,
        fmt::format("leases of before the budget was changed hold gpu={},pinned={},page_cache={} and "
                    "leave too little; end them first",
                    format_bytes(taken.gpu), format_bytes(taken.pinned), format_bytes(taken.page_cache)));
  }
  return staging_;
}

StreamerCore::Leased StreamerCore::acquire(std::uint32_t layer, const AcquireOptions& options) {
  device_->refuse_capture(options.stream);
  for (;;) {
    std::shared_ptr<Staging> staging = staging_to_acquire_from();
    HandOff& hand_off = staging->hand_off();
    HandOff::Grant grant{};
    try {
      grant = hand_off.acquire(layer, options.stop, options.deadline);
    } catch (const HandOff::Retired&) {
      continue;  // another pass began meanwhile with more of the budget
    }
    try {
      wait_for(hand_off, layer, grant.ready.staying, options.stream);
      wait_for(hand_off, layer, grant.ready.streamed, options.stream);
    } catch (...) {
      staging->drop(grant.place, std::current_exception());
      throw;
    }
    return {std::move(staging), grant.place};
  }
}

void StreamerCore::wait_for(HandOff& hand_off, std::uint32_t layer, const Event* ready, Stream stream) {
  if (ready == nullptr) return;
  // Elsewhere the stream waits and not the caller; to ask whether it has to would cost as much again.
  if (!device_->traits().is_host) return ready->make_wait(stream);
  if (ready->done()) return;
  const auto begin = clock_.now();
  ready->make_wait(stream);
  const auto end = clock_.now();
  hand_off.add_stall(StallCause::kCopy, end - begin);
  trace_.record({.kind = TraceEvent::Kind::kWait,
                 .cause = StallCause::kCopy,
                 .layer = layer,
                 .begin = begin,
                 .end = end});
}

TensorView StreamerCore::outside_tensor(std::string_view name, const AcquireOptions& options) {
  const std::size_t index = find_tensor(table_.outside, name);
  const Leased leased = acquire(layer_count(), options);
  leased.staging->release(leased.place, {});  // it stays where it is: nothing to fence
  return leased.staging->tensor(layer_count(), leased.place, index);
}

// --- Passes and statistics ---

void StreamerCore::begin_pass(std::span<const std::uint32_t> schedule, bool wraps, Stream stream) {
  device_->refuse_capture(stream);
  const std::scoped_lock staging_lock(staging_mutex_);
  refuse_unless_running();
  if (in_pass_) throw Error(Errc::kInvalidArgument, "a pass is under way; end it before another begins");
  if (is_crowded_ && staging_->hand_off().leases() == 0 && held() == Budget{} && !leases_of_before()) {
    end_staging();
    begin_staging_in_room();
  }
  if (PageCache* const pages = staging_->pages()) {
    pages->check_files();
    pages->find_lost();
  }
  HandOff& hand_off = staging_->hand_off();
  const std::scoped_lock lock(stats_mutex_);
  hand_off.begin_pass(schedule, wraps);
  timer_.begin(stream);
  pass_since_ = trace_.now();
  in_pass_ = true;
}

void StreamerCore::end_pass(Stream stream) noexcept {
  const std::scoped_lock staging_lock(staging_mutex_);
  in_pass_ = false;
  if (state_ == State::kClosed) return;  // within the pass
  HandOff& hand_off = staging_->hand_off();
  try {
    const std::scoped_lock lock(stats_mutex_);
    last_pass_ = hand_off.end_pass();
    timer_.end(stream);
    trace_.record({.kind = TraceEvent::Kind::kPass,
                   .layer = static_cast<std::uint32_t>(timer_.passes()),
                   .begin = pass_since_,
                   .end = trace_.now()});
  } catch (...) {
    hand_off.fail_for_good(std::current_exception());
  }
}

StreamerStats StreamerCore::stats() {
  if (state_ == State::kClosed) return final_stats_;
  const std::shared_ptr<Staging> current = staging();
  const std::scoped_lock lock(stats_mutex_);
  timer_.resolve_all();
  return counted(*current);
}

StreamerStats StreamerCore::counted(Staging& staging) const {
  StreamerStats stats;
  stats.passes = timer_.passes();
  stats.last_pass = last_pass_;
  stats.total = staging.hand_off().total();
  stats.last_pass.seconds = timer_.last_seconds();
  stats.total.seconds = timer_.total_seconds();
  stats.peak_bytes = {gpu_.peak_bytes(), pinned_.peak_bytes(), page_cache_.peak_bytes()};
  return stats;
}

PageCacheStatus StreamerCore::page_cache_status() const {
  const std::scoped_lock lock(staging_mutex_);  // meanwhile a pass that begins may retire the Staging
  if (state_ == State::kClosed) return final_pages_;
  return staging_->page_cache_status();
}

RamWeightsStatus StreamerCore::ram_weights_status() const {
  const std::scoped_lock lock(staging_mutex_);
  return {staging_->ram().registered_bytes(), staging_->ram().refusal()};
}

StoragePath StreamerCore::storage_path() {
  if (state_ == State::kClosed) return final_path_;
  return path_of(*staging());
}

StoragePath StreamerCore::path_of(const Staging& staging) const {
  StoragePath path = storage_->path();
  if (staging.reads_land() && !options_.register_slots) {
    path.fallbacks.push_back({"registered slots", "not asked for: it would hold up the first layer"});
    path.buffers_registered = false;
  }
  return path;
}

}  // namespace tierstream
