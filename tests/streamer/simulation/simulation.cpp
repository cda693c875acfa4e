#include "simulation.h"

#include <fmt/format.h>
#include <tierstream/tiers/plan.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "simulated_page_cache.h"
#include "simulated_storage.h"
#include "staging.h"

namespace tierstream::simulation {
namespace {

/// Rounds without any caller getting on, after which the loop is said to hang. Far more than any stage takes.
constexpr int kPatience = 200'000;

class SimulatedClock final : public Clock {
 public:
  std::chrono::nanoseconds now() const override { return ++now_; }

 private:
  mutable std::chrono::nanoseconds now_{0};
};

class World {
 public:
  World(std::uint64_t seed, const Lies& lies) : random_(seed), lies_(lies) {
    make_model();
    make_tiers();
  }

  Outcome run() {
    int rounds_without_progress = 0;
    while (actions_left_ > 0 || anyone_busy()) {
      const std::uint64_t before = progress_;
      switch (below(5)) {
        case 0:
          step_loop();
          break;
        case 2:
          if (pages_) {
            pages_->advance();
            storage_->wake();
          }
          break;
        case 1:
          device_->advance();
          break;
        default:
          act(callers_[below(callers_.size())]);
          break;
      }
      rounds_without_progress = progress_ == before ? rounds_without_progress + 1 : 0;
      if (rounds_without_progress > kPatience) throw Failure("a caller waits for ever");
    }
    finish();
    return outcome_;
  }

 private:
  struct Holding {
    std::shared_ptr<Staging> staging;
    std::uint32_t layer;
    std::uint32_t place;
    std::vector<Stream> streams;
  };
  struct Caller {
    std::optional<std::uint32_t> waits_for;
    std::vector<Holding> holds;
  };

  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  bool chance(int percent) { return below(100) < static_cast<std::uint64_t>(percent); }
  std::uint32_t layers() const { return static_cast<std::uint32_t>(table_.layers.size()); }

  // --- The model and the machine ---

  void make_model() {
    auto files = std::make_shared<MemoryFiles>();
    alignment_ = std::array{1u, 512u, 4096u}[below(3)];
    const std::uint64_t file_count = 1 + below(3);
    const std::uint64_t skew = chance(50) ? 0 : below(300);
    std::vector<std::vector<std::byte>> contents(file_count, std::vector<std::byte>(skew));
    for (std::uint32_t layer = 0, count = 1 + static_cast<std::uint32_t>(below(8)); layer < count; ++layer) {
      table_.layers.push_back(make_layer(fmt::format("layers.{}", layer), contents));
    }
    table_.outside = make_layer("", contents);
    for (std::size_t i = 0; i < contents.size(); ++i) {
      const std::string path = fmt::format("file{}", i);
      for (std::byte& byte : contents[i]) byte = static_cast<std::byte>(random_());
      if (contents[i].empty()) contents[i].resize(1);
      table_.files.push_back({path,
                              {.bytes = contents[i].size(),
                               .offset_alignment = alignment_,
                               .memory_alignment = alignment_,
                               .is_local_file = chance(80),
                               .version = {}}});
      (*files)[path] = std::move(contents[i]);
    }
    files_ = std::move(files);
  }

  Layer make_layer(std::string name, std::vector<std::vector<std::byte>>& contents) {
    Layer layer{std::move(name), {}};
    for (std::uint64_t i = 0, count = below(5); i < count; ++i) {
      const std::uint64_t bytes = chance(10) ? 0 : chance(50) ? 64 * below(300) : below(20'000);
      TensorSpec tensor{fmt::format("t{}", i), DType::kU8, {static_cast<std::int64_t>(bytes)}, bytes, {}};
      if (chance(15)) {
        std::vector<std::byte>& memory = in_memory_.emplace_back(bytes);
        for (std::byte& byte : memory) byte = static_cast<std::byte>(random_());
        tensor.source = memory.data();
      } else {
        const auto file = static_cast<std::uint32_t>(below(contents.size()));
        if (chance(20))
          contents[file].resize(contents[file].size() + below(9000));  // a gap: another's tensor
        tensor.source = FileExtent{file, contents[file].size()};
        contents[file].resize(contents[file].size() + bytes);
      }
      layer.tensors.push_back(std::move(tensor));
    }
    return layer;
  }

  void make_tiers() {
    const bool reads_land = chance(50);
    const PlanOptions options{.reads_land = reads_land,
                              .is_host = chance(50),
                              .allocation_bytes = std::uint64_t{4096} << below(4),
                              .max_slots = 1 + static_cast<std::uint32_t>(below(5)),
                              .request_bytes = std::uint64_t{4096} << below(2),
                              .max_block_bytes = std::uint64_t{8192} << below(3),
                              .max_ring_bytes = 1u << 20,
                              .chunk_bytes = std::uint64_t{4096} << below(3),
                              .layer_seconds = {}};
    const Budget minimum = least_budget(options);
    Budget budget = minimum;
    Plan least = make_plan(table_, minimum, {}, options);
    budget.gpu += below(layers() + 2) * least.slot_bytes + below(20'000);
    if (chance(50)) budget.page_cache = below(layers() * least.slot_bytes + 1);
    if (chance(50)) budget.pinned += below(8) * options.request_bytes;
    if (chance(30)) budget.pinned += options.max_ring_bytes + below(layers() * least.slot_bytes + 1);
    options_ = options;
    stable_slots_ = chance(20);
    poison_ = chance(30);
    copy_window_ = {.batches = 1 + static_cast<std::uint32_t>(below(4)),
                    .batch_bytes = kTensorAlignment << below(8)};
    gpu_.emplace("gpu", budget.gpu);
    pinned_.emplace("pinned", budget.pinned);
    page_cache_.emplace("page_cache", budget.page_cache);
    device_.emplace(random_, DeviceTraits{.name = "simulated", .reads_land = reads_land}, chance(50),
                    lies_.device);
    device_->watch([this](std::span<const std::byte> written) { check_write(written); });
    const bool faulty = chance(50);
    StorageFaults faults{.late = 0.1 + 0.8 * static_cast<double>(below(100)) / 100,
                         .cached = std::array{0.0, 0.5, 1.0}[below(3)],
                         .completes_early = lies_.storage_completes_early,
                         .loses_wakes = lies_.storage_loses_wakes};
    if (faulty) {
      faults.short_read = 0.2;
      faults.interrupted = 0.1;
      faults.busy = 0.1;
      faults.io_error = std::array{0.0, 0.0, 0.02, 0.2}[below(4)];
    }
    pages_fail_ = faulty && chance(30);
    page_failures_.resize(layers());
    const std::size_t depth = 1 + below(8);
    storage_.emplace(random_, files_, alignment_, faults,
                     StorageLimits{.max_in_flight = depth, .max_cached_in_flight = depth * (1 + below(3))});
    storage_->watch([this](std::span<const std::byte> written) { check_write(written); });
    for (const SourceFile& file : table_.files) storage_->open(file.path);
    Plan plan = make_plan(table_, budget, {}, options_);
    outside_reservation_ = gpu_->reserve(plan.outside.slot_bytes, "outside");
    outside_ = device_->allocate(plan.outside.slot_bytes);
    begin_staging(std::move(plan), 1);
    callers_.resize(1 + below(3));
    failures_before_wait_.resize(layers() + 1);
    impatient_ = chance(30);  // elsewhere a wait that does not end by itself must show
    actions_left_ = 20 + below(60);
    breaks_down_at_ = chance(5) ? below(actions_left_) : 0;
  }

  void begin_staging(Plan plan, std::uint64_t generation) {
    const StagingGround ground{
        .table = table_,
        .storage = *storage_,
        .device = *device_,
        .gpu = *gpu_,
        .pinned = *pinned_,
        .page_cache = *page_cache_,
        .make_pages = [this](const Plan& made, PageCache* before) { return make_pages(made, before); },
        .clock = clock_,
        .trace = {},
        .stable_slots = stable_slots_,
        .poison = poison_,
        .copy_window = lies_.copies_all_at_once ? CopyWindowShape{} : copy_window_};
    auto next = std::make_shared<Staging>(ground, std::move(plan), generation, outside_.data(),
                                          outside_is_there_, staging_.get());
    if (staging_) next->hand_off().carry_on(staging_->hand_off());
    staging_ = std::move(next);
    rule_ = {staging_->plan().slots, stable_slots_, poison_};
    storage_->wake();  // the loop begins anew
    check_budgets();
  }

  std::unique_ptr<PageCache> make_pages(const Plan& plan, PageCache* before) {
    auto pages = std::make_unique<SimulatedPageCache>(
        random_, table_, plan, files_, FilePageCache::Budgets{*page_cache_, *pinned_}, options_.is_host,
        pages_fail_, page_failures_, page_bytes_, static_cast<SimulatedPageCache*>(before));
    pages_ = pages.get();
    return pages;
  }

  /// While leases may be out, and nobody waits.
  void change_budget() {
    if (loop_failed_ || device_->broken()) return;
    staging_->loop().stop();
    storage_->wake();
    for (int round = 0; !staging_->loop().drained(); ++round) {
      if (round > kPatience) throw Failure("draining before a change of the budget does not end");
      device_->advance();
      step_loop();
      if (loop_failed_) return;
    }
    outside_is_there_ = outside_is_there_ || staging_->loop().is_there(layers());
    std::vector<Resident> there = residents_there();
    pages_ = nullptr;
    staging_->retire();
    poisoned_.clear();
    if (chance(10)) {  // parked in between
      staging_->free_kept(chance(50));
      there.clear();
    }
    const Budget kept = staging_->kept();
    const Budget slots{.gpu = gpu_->used_bytes() - outside_reservation_.bytes() - kept.gpu,
                       .pinned = pinned_->used_bytes() - kept.pinned,
                       .page_cache = page_cache_->used_bytes() - kept.page_cache};
    TensorHomes held = all_streamed(table_);
    bool any_held = false;
    for (const Caller& caller : callers_) {
      for (const Holding& holding : caller.holds) holding.staging->add_held(held);
      any_held = any_held || !caller.holds.empty();
    }
    if (!any_held && slots != Budget{}) throw Failure("memory is held though no lease is out");
    // What is left beside the leases of before must do.
    PlanOptions options = options_;
    options.held = &held;
    const Budget least = least_budget(options);
    Budget room = least;
    room.gpu += below(layers() + 2) * (least.gpu - outside_reservation_.bytes());
    room.pinned += below(4) * options_.request_bytes;
    if (chance(30)) room.pinned += options_.max_ring_bytes + below(layers() * 20'000);
    if (chance(50)) room.page_cache += below(layers() * 20'000);
    gpu_->set_limit(room.gpu + slots.gpu);
    pinned_->set_limit(room.pinned + slots.pinned);
    page_cache_->set_limit(room.page_cache + slots.page_cache);
    begin_staging(make_plan(table_, room, {}, options), staging_->generation() + 1);
    keep_residents(there);
    ++outcome_.budget_changes;
    ++progress_;
  }

  /// A resident tensor whose bytes have come.
  struct Resident {
    std::uint32_t layer;
    std::size_t tensor;
    std::span<const std::byte> bytes;
  };
  std::vector<Resident> residents_there() const {
    std::vector<Resident> there;
    for (std::uint32_t layer = 0; layer < layers(); ++layer) {
      if (!staging_->loop().is_there(layer)) continue;
      for (std::size_t i = 0; i < table_.layers[layer].tensors.size(); ++i) {
        if (staging_->plan().homes[layer][i] == TensorHome::kResident) {
          there.push_back({layer, i, resident_bytes(layer, i)});
        }
      }
    }
    return there;
  }
  std::span<const std::byte> resident_bytes(std::uint32_t layer, std::size_t i) const {
    return {staging_->tensor(layer, 0, i).data, table_.layers[layer].tensors[i].bytes};
  }

  /// What was there before a change of the budget and is in the plan of after lies where it lay, and nothing
  /// is brought there again.
  void keep_residents(const std::vector<Resident>& there) {
    kept_.clear();
    for (const Resident& before : there) {
      if (staging_->plan().homes[before.layer][before.tensor] != TensorHome::kResident) continue;
      if (resident_bytes(before.layer, before.tensor).data() != before.bytes.data()) {
        throw Failure("a resident tensor has moved");
      }
      kept_.push_back(before.bytes);
    }
    outcome_.residents_kept += kept_.size();
  }

  /// Before device memory is written to.
  void check_write(std::span<const std::byte> written) {
    const auto meets = [written](std::span<const std::byte> bytes) {
      return written.data() < bytes.data() + bytes.size() && bytes.data() < written.data() + written.size();
    };
    if (std::ranges::any_of(kept_, meets)) {
      throw Failure("a tensor that was resident before is brought again");
    }
    std::erase_if(poisoned_, [&](std::span<const std::byte> slot) {
      if (!meets(slot)) return false;
      check_poison(slot);
      return true;
    });
  }

  void check_poison(std::span<const std::byte> slot) {
    if (loop_failed_) return;
    ++outcome_.poisoned_slots;
    if (std::ranges::any_of(slot, [](std::byte byte) { return byte != kPoison; })) {
      throw Failure("a slot that was given back has wrong bytes where poison should be");
    }
  }

  void check_budgets() const {
    if (device_->live_bytes() > gpu_->used_bytes()) throw Failure("device memory that nobody has reserved");
    if (gpu_->used_bytes() > gpu_->limit_bytes()) throw Failure("more device memory than the gpu budget");
    if (pinned_->used_bytes() > pinned_->limit_bytes())
      throw Failure("more host memory than the pinned budget");
    if (page_cache_->used_bytes() > page_cache_->limit_bytes()) {
      throw Failure("more pages than the page_cache budget");
    }
  }

  Budget least_budget(const PlanOptions& options) {
    // No more kept in host memory than leases hold: on the host, what is used in place needs no slot.
    Budget plenty{.gpu = 1u << 30, .pinned = 2 * options.request_bytes, .page_cache = 0};
    if (options.held != nullptr) {
      const Budget all{.gpu = 1u << 30, .pinned = 1u << 30, .page_cache = 1u << 30};
      const Budget held = make_plan(table_, all, {}, options).minimum;
      plenty.pinned += held.pinned;
      plenty.page_cache = held.page_cache;
    }
    return make_plan(table_, plenty, {}, options).minimum;
  }

  // --- What callers do ---

  bool anyone_busy() const {
    return std::ranges::any_of(callers_, [](const Caller& c) { return c.waits_for || !c.holds.empty(); });
  }

  void step_loop() {
    if (loop_failed_ || storage_->sleeps()) return;
    failures_heard_ = storage_->failures().size();  // the step begins with what the one before collected
    try {
      staging_->loop().step();
    } catch (const Error& error) {
      if (!device_->broken() || error.errc() != Errc::kDeviceFailed) throw;
      loop_failed_ = true;
      staging_->hand_off().fail_for_good(std::current_exception());
    }
    if (storage_->in_flight() > storage_->limits().max_cached_in_flight) {
      throw Failure("storage is over its depth");
    }
    check_blocks_reading();
    check_copies_queued();
  }

  void act(Caller& caller) {
    if (caller.waits_for) {
      const std::uint32_t layer = *caller.waits_for;
      if (impatient_ && chance(1) && layer != layers()) return give_up_waiting(caller);
      return try_end_wait(caller, layer);
    }
    if (!caller.holds.empty() && (actions_left_ == 0 || chance(50))) return release(caller);
    if (actions_left_ == 0) return;
    ++progress_;
    --actions_left_;
    if (breaks_down_at_ != 0 && actions_left_ == breaks_down_at_) device_->break_down();
    if (chance(2) &&
        std::ranges::none_of(callers_, [](const Caller& c) { return c.waits_for.has_value(); })) {
      return change_budget();
    }
    const std::uint64_t kind = below(100);
    if (kind < 5) {
      begin_pass();
    } else if (kind < 8) {
      (void)staging_->hand_off().end_pass();
    } else if (kind < 15) {
      try_acquire(caller, layers());
    } else if (kind < 30) {
      try_acquire(caller, static_cast<std::uint32_t>(below(layers())));  // off the schedule
    } else {
      try_acquire(caller, next_in_walk());
    }
  }

  std::uint32_t next_in_walk() { return walk_++ % layers(); }

  void begin_pass() {
    std::vector<std::uint32_t> schedule;
    if (chance(50)) {
      for (std::uint32_t layer = 0; layer < layers(); ++layer) schedule.push_back(layer);
    } else {
      for (std::uint64_t i = 0, count = 1 + below(10); i < count; ++i) {
        schedule.push_back(static_cast<std::uint32_t>(below(layers())));
      }
    }
    staging_->hand_off().begin_pass(schedule, chance(70));
    walk_ = 0;
  }

  void try_acquire(Caller& caller, std::uint32_t layer) {
    try {
      if (const auto grant = staging_->hand_off().try_acquire(layer)) return use(caller, layer, *grant);
    } catch (const Error& error) {
      if (error.errc() == Errc::kReadFailed && !anyone_waits_for(layer)) {
        throw Failure(fmt::format("an error of layer {} was kept though nobody waited for it", layer));
      }
      return check_refusal(layer, error);
    }
    if (!anyone_waits_for(layer)) failures_before_wait_[layer] = failures_heard_;
    staging_->hand_off().begin_wait(layer);
    caller.waits_for = layer;
  }

  void try_end_wait(Caller& caller, std::uint32_t layer) {
    std::optional<HandOff::Grant> grant;
    try {
      grant = staging_->hand_off().try_end_wait(layer);
    } catch (const Error& error) {
      wait_is_over(caller);
      return check_refusal(layer, error);
    }
    if (!grant) return;
    wait_is_over(caller);
    use(caller, layer, *grant);
  }

  /// Its deadline has passed, or it was cancelled.
  void give_up_waiting(Caller& caller) {
    staging_->hand_off().end_wait(*caller.waits_for);
    wait_is_over(caller);
  }

  void wait_is_over(Caller& caller) {
    caller.waits_for.reset();
    ++progress_;
  }

  bool anyone_waits_for(std::uint32_t layer) const {
    return std::ranges::any_of(callers_, [layer](const Caller& c) { return c.waits_for == layer; });
  }

  void use(Caller& caller, std::uint32_t layer, const HandOff::Grant& grant) {
    ++progress_;
    ++outcome_.leases;
    check_account(layer);
    std::vector<const std::byte*> tensors;  // where they lie now: freeing waits for the work below
    const Layer& specs = layer == layers() ? table_.outside : table_.layers[layer];
    for (std::size_t i = 0; i < specs.tensors.size(); ++i) {
      tensors.push_back(staging_->tensor(layer, grant.place, i).data);
    }
    const auto check = [this, layer, tensors, mapped = pages_ ? pages_->mapped() : nullptr] {
      check_bytes(layer, tensors);
    };
    std::vector<Stream> streams{SimulatedDevice::stream(below(SimulatedDevice::kStreams))};
    if (chance(20)) streams.push_back(SimulatedDevice::stream(below(SimulatedDevice::kStreams)));
    for (const Stream stream : streams) {
      for (const Event* ready : {grant.ready.streamed, grant.ready.staying}) {
        if (ready != nullptr) ready->make_wait(stream);
      }
      device_->compute(stream, check, check);
    }
    if (layer == layers()) {
      staging_->hand_off().release(grant.place, {});
    } else {
      caller.holds.push_back({staging_, layer, grant.place, std::move(streams)});
    }
  }

  void release(Caller& caller) {
    ++progress_;
    std::swap(caller.holds[below(caller.holds.size())], caller.holds.back());
    const Holding held = std::move(caller.holds.back());
    caller.holds.pop_back();
    held.staging->release(held.place, held.streams);
    const bool is_slot = held.staging == staging_ && held.place < rule_.slots;
    if (!poison_ || !is_slot || staging_->hand_off().is_leased(held.place)) return;
    const std::byte* begin = nullptr;  // of what was streamed
    const std::byte* end = nullptr;
    for (std::size_t i = 0; i < table_.layers[held.layer].tensors.size(); ++i) {
      if (staging_->plan().homes[held.layer][i] != TensorHome::kSlot) continue;
      const TensorView tensor = staging_->tensor(held.layer, held.place, i);
      if (tensor.spec->bytes == 0) continue;
      if (begin == nullptr || tensor.data < begin) begin = tensor.data;
      end = std::max<const std::byte*>(end, tensor.data + tensor.spec->bytes);
    }
    poisoned_.emplace_back(begin, end);
  }

  // --- What must hold ---

  void check_bytes(std::uint32_t layer_index, const std::vector<const std::byte*>& tensors) {
    if (loop_failed_) return;  // the device has failed: what is on it is lost
    const bool is_outside = layer_index == layers();
    const Layer& layer = is_outside ? table_.outside : table_.layers[layer_index];
    for (std::size_t i = 0; i < layer.tensors.size(); ++i) {
      const TensorSpec& tensor = layer.tensors[i];
      const auto* extent = std::get_if<FileExtent>(&tensor.source);
      const std::byte* expected = extent ? files_->at(table_.files[extent->file].path).data() + extent->offset
                                         : std::get<const std::byte*>(tensor.source);
      ++outcome_.tensors_checked;
      if (tensor.bytes == 0) continue;
      if (std::memcmp(tensors[i], expected, tensor.bytes) != 0) {
        throw Failure(fmt::format("{} has wrong bytes", layer.full_name(tensor)));
      }
    }
  }

  /// Or storage would idle while all of the ring is copied.
  void check_blocks_reading() {
    const RingShape& ring = staging_->plan().ring;
    const std::byte* begin = staging_->ring()->memory().data();
    const std::byte* end = begin + ring.bytes();
    std::set<std::ptrdiff_t> reading;
    for (const SimulatedStorage::RawRead& read : storage_->under_way()) {
      const std::byte* at = read.destination.data();
      if (begin <= at && at < end) {
        reading.insert((at - begin) / static_cast<std::ptrdiff_t>(ring.block_bytes));
      }
    }
    if (reading.size() > (ring.blocks + 1) / 2) throw Failure("more than half the ring is read at once");
  }

  /// Or what becomes urgent, and the caller's own copies, would wait behind them.
  void check_copies_queued() {
    if (lies_.device.copies_done_early) return;  // then the loop must think that there is room
    const std::uint64_t queued = device_->queued_copy_bytes(staging_->ring()->memory());
    if (pages_ != nullptr && pages_->some_were_coming()) {
      window_is_open_ = true;
    } else if (queued == 0) {
      window_is_open_ = false;
    }
    if (!window_is_open_ && queued > copy_window_.batches * copy_window_.batch_bytes) {
      throw Failure("more is copied ahead than the copy window holds");
    }
  }

  /// Each lease's bytes come from somewhere.
  void check_account(std::uint32_t layer) {
    const std::uint64_t before = std::exchange(counted_bytes_, staging_->hand_off().total().bytes.total());
    if (layer != layers() && counted_bytes_ - before < table_.layers[layer].bytes()) {
      throw Failure(fmt::format("layer {} has {} bytes, and {} were counted", layer,
                                table_.layers[layer].bytes(), counted_bytes_ - before));
    }
  }

  void check_refusal(std::uint32_t layer, const Error& error) {
    switch (error.errc()) {
      case Errc::kReadFailed:
        return check_read_error(layer, error);
      case Errc::kFileChanged:
        if (page_failures_[layer] > 0) return;
        throw Failure("an acquire says that pages failed, which they did not");
      case Errc::kTooManyLeases:
        return check_too_many(layer);
      case Errc::kDeviceFailed:
        if (!device_->broken()) throw Failure("an acquire says that the device failed, which it did not");
        ++outcome_.device_failures;
        actions_left_ = 0;
        return;
      default:
        throw Failure(fmt::format("unexpected error: {}", error.what()));
    }
  }

  void check_read_error(std::uint32_t layer_index, const Error& error) {
    ++outcome_.read_errors;
    const Layer& layer = layer_index == layers() ? table_.outside : table_.layers[layer_index];
    const ErrorPlace& place = error.place();
    const auto tensor = std::ranges::find_if(
        layer.tensors, [&](const TensorSpec& t) { return layer.full_name(t) == place.tensor; });
    if (tensor == layer.tensors.end()) {
      throw Failure(fmt::format("layer {} got the error of another: {}", layer_index, error.what()));
    }
    auto failures = std::span(storage_->failures()).subspan(failures_before_wait_[layer_index]);
    const bool injected = std::ranges::any_of(failures, [&](const SimulatedStorage::Failure& failure) {
      // A read that went on after a short part fails behind its beginning.
      return failure.path == place.file && failure.offset >= place.offset.value() &&
             failure.offset < *place.offset + place.expected_bytes.value();
    });
    if (!injected) {
      throw Failure(fmt::format("an error that storage did not make since the wait began: {}", error.what()));
    }
  }

  void check_too_many(std::uint32_t layer) {
    ++outcome_.too_many_leases;
    std::set<std::uint32_t> leased;
    for (const Caller& caller : callers_) {
      for (const Holding& held : caller.holds) {
        if (held.staging != staging_) continue;
        if (held.layer == layer) throw Failure(fmt::format("layer {} is leased, and was refused", layer));
        leased.insert(held.place);
      }
    }
    for (std::uint32_t slot = 0; slot < rule_.slots; ++slot) {
      if (rule_.allows(layer, slot) && !leased.contains(slot)) {
        throw Failure(fmt::format("layer {} was refused though slot {} is not leased", layer, slot));
      }
    }
  }

  void finish() {
    if (staging_->hand_off().leases() != 0) throw Failure("leases are out though all were released");
    staging_->loop().stop();
    storage_->wake();
    for (int round = 0; !loop_failed_ && !(staging_->loop().drained() && device_->idle()); ++round) {
      if (round > kPatience) throw Failure("draining does not end");
      device_->advance();
      step_loop();
    }
    if (loop_failed_) return drain_storage();
    step_loop();
    for (const std::span<const std::byte> slot : poisoned_) check_poison(slot);
    if (staging_->ring()->free_blocks() != staging_->plan().ring.blocks)
      throw Failure("ring blocks were not given back");
    const PassStats total = staging_->hand_off().total();
    if (total.layers > outcome_.leases) throw Failure("more leases were counted than given");
    const StorageCounters& read = storage_->counters();
    if (total.bytes.disk > read.bytes - read.cached_bytes + page_bytes_) {
      throw Failure("more bytes were counted than read");
    }
  }

  /// After a device failure reads may still be under way; their memory must not go before them.
  void drain_storage() {
    std::array<Completion, 16> completions;
    for (int round = 0; storage_->in_flight() != 0; ++round) {
      if (round > kPatience) throw Failure("reads do not end");
      (void)storage_->collect(completions, std::chrono::nanoseconds{0});
    }
  }

  std::mt19937_64 random_;
  const Lies lies_;
  std::uint32_t alignment_ = 1;
  std::shared_ptr<const MemoryFiles> files_;
  std::vector<std::vector<std::byte>> in_memory_;
  LayerTable table_;
  PlanOptions options_;
  bool stable_slots_ = false;
  bool poison_ = false;
  CopyWindowShape copy_window_;
  bool window_is_open_ = false;  // pages were still coming when what is queued now was
  bool pages_fail_ = false;
  std::vector<std::uint64_t> page_failures_;  // by layer
  std::uint64_t page_bytes_ = 0;              // of kept pages, read
  SlotRule rule_{};
  SimulatedClock clock_;

  std::optional<TierBudget> gpu_;
  std::optional<TierBudget> pinned_;
  std::optional<TierBudget> page_cache_;
  std::optional<SimulatedDevice> device_;
  std::optional<SimulatedStorage> storage_;
  Reservation outside_reservation_;
  DeviceMemory outside_;
  bool outside_is_there_ = false;
  std::shared_ptr<Staging> staging_;
  SimulatedPageCache* pages_ = nullptr;               // of staging_
  std::vector<std::span<const std::byte>> kept_;      // tensors that the last change of the budget kept
  std::vector<std::span<const std::byte>> poisoned_;  // in slots, not written to since their last lease

  std::vector<Caller> callers_;
  std::uint64_t counted_bytes_ = 0;                // of all leases so far
  std::size_t failures_heard_ = 0;                 // by the loop, of storage's
  std::vector<std::size_t> failures_before_wait_;  // by layer: before the first of those who wait for it
  bool impatient_ = false;
  std::uint64_t actions_left_ = 0;
  std::uint64_t breaks_down_at_ = 0;
  std::uint32_t walk_ = 0;
  std::uint64_t progress_ = 0;
  bool loop_failed_ = false;
  Outcome outcome_;
};

}  // namespace

Outcome simulate(std::uint64_t seed, const Lies& lies) { return World(seed, lies).run(); }

}  // namespace tierstream::simulation
