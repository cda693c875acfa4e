#include "streamer_core.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/tiers/cpu_device.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <ranges>
#include <utility>

namespace tierstream {
namespace {

/// Opens the table's files in their order and refuses those that changed since the table was made.
std::unique_ptr<StorageBackend> open_files(const LayerTable& table) {
  if (table.files.empty())
    return make_memory_backend(std::make_shared<MemoryFiles>());  // never asked to read
  if (!table.open_storage) {
    throw Error(Errc::kInvalidArgument, "the layer table names files but no storage to open them");
  }
  std::unique_ptr<StorageBackend> storage = table.open_storage();
  for (const SourceFile& file : table.files) {
    const FileInfo& info = storage->info(storage->open(file.path));
    if (info.bytes == file.info.bytes && info.version == file.info.version) continue;
    ErrorPlace place{.file = file.path};
    if (info.bytes != file.info.bytes) {
      place.expected_bytes = file.info.bytes;
      place.actual_bytes = info.bytes;
    }
    throw Error(Errc::kFileChanged, "the file was changed or replaced after the checkpoint was opened",
                std::move(place));
  }
  return storage;
}

/// The machine's limits, before anything is allocated: memory that is given out untouched would be missed
/// only when it is written to, by an end of the process.
void refuse_more_than_there_is(const Budget& used, Device& device) {
  const auto refuse_beyond = [](const MemoryRoom& room, std::uint64_t bytes, std::string_view what) {
    if (bytes <= room.bytes) return;
    throw Error(Errc::kOutOfMemory, fmt::format("{} needs {} bytes; there are {} by {}", what, bytes,
                                                room.bytes, room.limited_by));
  };
  const MemoryRoom host = host_memory_room();
  if (device.traits().is_host) {
    return refuse_beyond(host, used.gpu + used.pinned + used.page_cache, "all tiers together");
  }
  refuse_beyond(device.memory_room(), used.gpu, "gpu");
  refuse_beyond(host, used.pinned + used.page_cache, "pinned and page_cache together");
}

std::vector<std::uint8_t> slots_needed(const Plan& plan) {
  std::vector<std::uint8_t> needed(plan.layers.size());
  for (std::size_t i = 0; i < needed.size(); ++i) needed[i] = plan.needs_slot(i);
  return needed;
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

StreamerCore::Staging::Staging(StreamerCore& core, std::unique_ptr<StorageBackend> opened)
    : storage(std::move(opened)),
      pages(core.plan_.page_cache.empty()
                ? nullptr
                : std::make_unique<FilePageCache>(core.table_, core.plan_, *core.device_, core.page_cache_,
                                                  [backend = storage.get()] { backend->wake(); })),
      staying_reservation(core.gpu_.reserve(core.plan_.staying_bytes(), "residents")),
      staying(core.device_->allocate(core.plan_.staying_bytes())),
      ring(*core.device_, core.pinned_, core.plan_.ring),
      slots(*core.device_, core.gpu_, core.plan_.slot_bytes, core.plan_.slots),
      copies(core.device_->make_copy_queue([backend = storage.get()] { backend->wake(); })),
      hand_off(
          slots_needed(core.plan_), {core.plan_.slots, core.options_.stable_slots}, slots, core.clock_,
          [backend = storage.get()] { backend->wake(); }, core.trace_),
      loop({.table = core.table_,
            .plan = core.plan_,
            .storage = *storage,
            .device = *core.device_,
            .copies = *copies,
            .ring = ring,
            .slots = slots,
            .staying_memory = staying.data(),
            .page_cache = pages.get(),
            .hand_off = hand_off,
            .rule = {core.plan_.slots, core.options_.stable_slots},
            .trace = core.trace_}) {}

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
  plan_ = make_plan(table_, options_.budget, {},
                    {.reads_land = device_->traits().reads_land,
                     .is_host = device_->traits().is_host,
                     .max_slots = options_.max_slots,
                     .request_bytes = options_.request_bytes,
                     .layer_seconds = {}});
  refuse_more_than_there_is(plan_.used, *device_);
  const auto lands = [](const LayerLayout& layout) { return !layout.landings.empty(); };
  reads_land_ = lands(plan_.outside) || std::ranges::any_of(plan_.layers, lands) ||
                std::ranges::any_of(plan_.residents, lands);
  if (options_.trace) options_.trace->begin(subject_of(table_, plan_));
  staging_ = std::make_unique<Staging>(*this, open_files(table_));
  register_memory();
  populating_ = std::jthread([this](const std::stop_token& stop) { populate_slots(stop); });
  thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

StreamerCore::~StreamerCore() {
  stop();
  free_staging();
}

void StreamerCore::register_memory() {
  registration_refusal_ = staging_->ring.registration_refusal();
  // A refusal is kept by the storage and shows in its path.
  StorageBackend& storage = *staging_->storage;
  if (plan_.ring.blocks != 0) storage.register_memory(staging_->ring.memory());
  if (!reads_land_) return;
  if (options_.register_slots) {
    storage.register_memory(staging_->slots.memory());
    storage.register_memory({staging_->staying.data(), staging_->staying.bytes()});
  }
}

StreamerCore::Staging& StreamerCore::staging() const {
  if (!staging_) throw Error(Errc::kClosed, "the streamer is closed");
  return *staging_;
}

// --- The staging thread ---

/// Beside the first reads, in the order in which slots are taken: finding and clearing the pages of a whole
/// gpu budget before the first read would keep the first layer waiting.
void StreamerCore::populate_slots(const std::stop_token& stop) noexcept {
  constexpr std::size_t kStep = 32u << 20;
  const std::span<std::byte> staying(staging_->staying.data(), staging_->staying.bytes());
  for (std::span<std::byte> rest : {staging_->slots.memory(), staying}) {
    while (!rest.empty() && !stop.stop_requested()) {
      const std::size_t bytes = std::min(kStep, rest.size());
      device_->populate(rest.first(bytes));
      rest = rest.subspan(bytes);
    }
  }
}

void StreamerCore::run(const std::stop_token& stop) noexcept {
  const std::stop_callback wake(stop, [storage = staging_->storage.get()] { storage->wake(); });
  try {
    device_->enter_staging_thread();
    while (!stop.stop_requested()) staging_->loop.step();
  } catch (...) {
    staging_->hand_off.fail_for_good(std::current_exception());
  }
  drain();
}

void StreamerCore::drain() noexcept {
  try {
    const auto deadline = clock_.now() + options_.end_timeout;
    staging_->loop.stop();
    while (!staging_->loop.drained()) {
      if (clock_.now() > deadline) return leave_to_leak("a read or copy did not end");
      staging_->loop.step();
    }
    staging_->storage->unregister_memory();  // on the thread that owns the queue, before the memory goes
  } catch (const std::exception& error) {
    leave_to_leak(error.what());
  }
}

/// Someone may still write to this memory: freeing it would be worse than losing it.
void StreamerCore::leave_to_leak(std::string_view why) noexcept {
  Staging& staging = *staging_;
  staging.ring.abandon_memory();
  staging.slots.abandon_memory();
  staging.staying.abandon();
  storage_hangs_ = staging.storage->in_flight() != 0;
  try {
    options_.warn(fmt::format("{}: {} of memory are left to leak", why,
                              format_bytes(gpu_.used_bytes() + pinned_.used_bytes())));
  } catch (...) {  // a warning that cannot be given is lost, nothing else
  }
}

void StreamerCore::stop() noexcept {
  if (!thread_.joinable()) return;
  populating_.request_stop();
  thread_.request_stop();
  populating_.join();
  thread_.join();
}

void StreamerCore::free_staging() noexcept {
  if (staging_ && storage_hangs_) (void)staging_->storage.release();  // its end would wait for the reads
  staging_.reset();
}

void StreamerCore::close() {
  if (!staging_) return;
  if (const std::uint32_t leases = staging_->hand_off.leases(); leases != 0) {
    throw Error(Errc::kLeasesOutstanding, fmt::format("{} leases are out; end them before close()", leases));
  }
  stop();
  final_path_ = storage_path();
  final_pages_ = page_cache_status();
  {
    const std::scoped_lock lock(stats_mutex_);
    try {
      timer_.resolve_all();
    } catch (const Error&) {  // the device has failed: the last pass stays without its time
    }
    final_stats_ = counted();
  }
  free_staging();
}

// --- Leases ---

std::uint32_t StreamerCore::acquire(std::uint32_t layer, const AcquireOptions& options) {
  HandOff& hand_off = staging().hand_off;
  device_->refuse_capture(options.stream);
  const HandOff::Grant grant = hand_off.acquire(layer, options.stop, options.deadline);
  try {
    wait_for(layer, grant.ready.staying, options.stream);
    wait_for(layer, grant.ready.streamed, options.stream);
  } catch (...) {
    hand_off.drop(grant.place, std::current_exception());
    throw;
  }
  return grant.place;
}

void StreamerCore::wait_for(std::uint32_t layer, const Event* ready, Stream stream) {
  if (ready == nullptr || ready->done()) return;
  const auto begin = clock_.now();
  ready->make_wait(stream);
  const auto end = clock_.now();
  staging_->hand_off.add_stall(StallCause::kCopy, end - begin);
  trace_.record({.kind = TraceEvent::Kind::kWait,
                 .cause = StallCause::kCopy,
                 .layer = layer,
                 .begin = begin,
                 .end = end});
}

void StreamerCore::release(std::uint32_t place, std::span<const Stream> streams) {
  for (const Stream stream : streams) device_->refuse_capture(stream);
  staging_->hand_off.release(place, streams);
}

void StreamerCore::release_for_sure(std::uint32_t place, Stream stream) noexcept {
  try {
    release(place, std::array{stream});
  } catch (...) {
    staging_->hand_off.drop(place, std::current_exception());
  }
}

TensorView StreamerCore::tensor(std::uint32_t layer, std::uint32_t place, std::size_t index) const {
  const bool is_outside = layer == layer_count();
  const Layer& specs = is_outside ? table_.outside : table_.layers[layer];
  if (index >= specs.tensors.size()) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("tensor {} of {}: there are {}", index, specs.name, specs.tensors.size()));
  }
  const TensorSpec& spec = specs.tensors[index];
  std::byte* const staying = staging_->staying.data();
  if (is_outside) return {&spec, staying + plan_.outside.tensor_offsets[index]};
  switch (plan_.homes[layer][index]) {
    case TensorHome::kMapped: {
      const auto& extent = std::get<FileExtent>(spec.source);
      return {&spec, const_cast<std::byte*>(staging_->pages->address(extent.file, extent.offset))};
    }
    case TensorHome::kResident:
      return {&spec, staying + plan_.resident_offset(layer) + plan_.residents[layer].tensor_offsets[index]};
    case TensorHome::kSlot:
      break;
  }
  if (!plan_.needs_slot(layer))
    return {&spec, staying};  // a tensor without a byte, in a layer without a slot
  return {&spec, staging_->slots.address(place) + plan_.layers[layer].tensor_offsets[index]};
}

TensorView StreamerCore::outside_tensor(std::string_view name, const AcquireOptions& options) {
  const std::size_t index = find_tensor(table_.outside, name);
  const std::uint32_t place = acquire(layer_count(), options);
  staging_->hand_off.release(place, {});  // it stays where it is: nothing to fence
  return tensor(layer_count(), place, index);
}

// --- Passes and statistics ---

void StreamerCore::begin_pass(std::span<const std::uint32_t> schedule, bool wraps, Stream stream) {
  HandOff& hand_off = staging().hand_off;
  device_->refuse_capture(stream);
  if (staging_->pages) staging_->pages->check_files();
  const std::scoped_lock lock(stats_mutex_);
  hand_off.begin_pass(schedule, wraps);
  timer_.begin(stream);
  pass_since_ = trace_.now();
}

void StreamerCore::end_pass(Stream stream) noexcept {
  if (!staging_) return;  // closed within the pass
  HandOff& hand_off = staging_->hand_off;
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
  if (!staging_) return final_stats_;
  const std::scoped_lock lock(stats_mutex_);
  timer_.resolve_all();
  return counted();
}

StreamerStats StreamerCore::counted() const {
  StreamerStats stats;
  stats.passes = timer_.passes();
  stats.last_pass = last_pass_;
  stats.total = staging_->hand_off.total();
  stats.last_pass.seconds = timer_.last_seconds();
  stats.total.seconds = timer_.total_seconds();
  stats.peak_bytes = {gpu_.peak_bytes(), pinned_.peak_bytes(), page_cache_.peak_bytes()};
  return stats;
}

PageCacheStatus StreamerCore::page_cache_status() const {
  if (!staging_) return final_pages_;
  return staging_->pages ? staging_->pages->status() : PageCacheStatus{};
}

StoragePath StreamerCore::storage_path() {
  if (!staging_) return final_path_;
  StoragePath path = staging_->storage->path();
  if (reads_land_ && !options_.register_slots) {
    path.fallbacks.push_back({"registered slots",
                              "register_slots is off: the first layer would wait for the first "
                              "touch of them all"});
    path.buffers_registered = false;
  }
  return path;
}

}  // namespace tierstream
