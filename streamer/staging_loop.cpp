#include "staging_loop.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <limits>
#include <ranges>
#include <utility>

namespace tierstream {
namespace {

/// How often events are asked for when the device does not notify: a block of 8 MiB takes 150 us on PCIe 5.
constexpr std::chrono::microseconds kPollInterval{50};
/// While draining, so that whoever drains can keep a deadline.
constexpr std::chrono::milliseconds kDrainInterval{10};

}  // namespace

StagingLoop::StagingLoop(const StagingParts& parts)
    : parts_(parts),
      targets_(parts.slots.slots() + parts.table.layers.size() + 1),
      unregistered_(parts.table.layers.size()),
      again_(parts.table.layers.size() + 1),
      read_for_(parts.table.layers.size() + 1),
      blocks_(parts.ring.shape().blocks),
      max_blocks_reading_((blocks_.size() + 1) / 2),
      copy_window_(parts.device, parts.copy_window),
      target_of_(parts.table.layers.size() + 1),
      is_wanted_(parts.table.layers.size() + 1),
      completions_(parts.storage.limits().max_in_flight) {
  for (Target& target : targets_) target.ready = parts_.device.make_event();
  for (std::uint32_t slot = 0; slot < parts_.rule.slots; ++slot) {
    targets_[slot].memory = parts_.slots.address(slot);
  }
  for (std::uint32_t layer = 0; layer <= outside_layer(); ++layer) {
    Target& target = staying(layer);
    target.layer = layer;
    if (layer == outside_layer()) {
      target.layout = &parts_.plan.outside;
      target.memory = parts_.outside_memory;
      if (parts_.outside_is_there) finish_staying(target);
      continue;
    }
    target.layout = &parts_.residents.missing(layer);
    const LayerLayout& all = parts_.plan.residents[layer];
    const std::vector<TensorSpec>& tensors = parts_.table.layers[layer].tensors;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (parts_.plan.homes[layer][i] != TensorHome::kMapped) continue;
      kept_tier(again_[layer], std::get<FileExtent>(tensors[i].source).file) += tensors[i].bytes;
    }
    again_[layer].gpu = all.disk_bytes() + all.memory_bytes();
    if (needs_slot(layer) && again_[layer].total() == 0)
      target.stage = Target::Stage::kPublished;  // nothing stays
  }
  for (BlockUse& block : blocks_) block.copied = parts_.device.make_event();
  copying_.reserve(blocks_.size());
  wanted_.reserve(parts_.hand_off.most_wanted());
  requests_.reserve(completions_.size());
}

std::uint32_t StagingLoop::outside_layer() const {
  return static_cast<std::uint32_t>(parts_.table.layers.size());
}

std::uint32_t StagingLoop::index_of(const Target& target) const {
  return static_cast<std::uint32_t>(&target - targets_.data());
}

bool StagingLoop::needs_slot(std::uint32_t layer) const {
  return layer != outside_layer() && parts_.plan.needs_slot(layer);
}

void StagingLoop::step() {
  finish_reads();
  finish_copies();
  const HandOff::Round round = parts_.hand_off.begin_round(wanted_, cause_);
  if (!stopping_) {
    if (round.changed || slots_pending_) give_slots();
    if (waiting_for_pages_ != 0) {
      for (Target& target : targets_) {
        if (target.waits_for_pages) take_pages(target);
      }
    }
    start_copies();
    start_reads();
    if (round.someone_waits) cause_ = cause_of_wait();
  }
  meter_links();
  handled_ = 0;
  completed_ = parts_.storage.collect(completions_, patience());
}

void StagingLoop::stop() {
  stopping_ = true;
  for (Target& target : targets_) {
    if (target.stage == Target::Stage::kFilling) abandon(target);
  }
}

bool StagingLoop::drained() const {
  return handled_ == completed_ && parts_.storage.in_flight() == 0 && copying_.empty() &&
         last_copied_ == nullptr &&
         std::ranges::all_of(targets_, [](const Target& target) { return target.ready->done(); });
}

void StagingLoop::let_go() noexcept {
  for (BlockUse& use : blocks_) use.block.reset();
}

// --- Reads and copies that have ended ---

void StagingLoop::finish_reads() {
  // Counted before it is handled: a device error in between must not make it count twice.
  while (handled_ < completed_) finish_read(completions_[handled_++]);
}

void StagingLoop::finish_read(const Completion& completion) {
  const ReadId id = from_tag(completion.tag);
  Target& target = targets_[id.landing ? id.index : blocks_[id.index].target];
  const FileRead& read = id.landing ? target.layout->landings[id.read] : blocks_[id.index].reads[id.read];
  if (id.landing) {
    --target.landings_under_way;
    if (parts_.trace) trace_landings(target, completion);
  } else {
    --blocks_[id.index].reads_under_way;
    blocks_[id.index].read_bytes += completion.bytes;
  }
  if (completion.error && target.stage == Target::Stage::kFilling) {
    parts_.hand_off.fail(target.layer, read_error(target, read, completion));
    abandon(target);
  }
  const std::size_t disk_bytes = completion.bytes - completion.cached_bytes;
  target.load.disk += disk_bytes;
  target.load.page_cache += completion.cached_bytes;
  parts_.hand_off.links().disk.add_bytes(disk_bytes);
  parts_.hand_off.links().cached.add_bytes(completion.cached_bytes);
  if (!id.landing) {
    BlockUse& use = blocks_[id.index];
    if (target.stage == Target::Stage::kAbandoned) {
      if (use.block && use.reads_under_way == 0) release_unread(use);
    } else if (use.reads_under_way == 0 && use.next_read == use.reads.size()) {
      copy_block(id.index);
    }
  }
  settle(target);
}

std::exception_ptr StagingLoop::read_error(const Target& target, const FileRead& read,
                                           const Completion& completion) const {
  const bool is_outside = target.layer == outside_layer();
  const Layer& layer = is_outside ? parts_.table.outside : parts_.table.layers[target.layer];
  const SourceFile& file = parts_.table.files[read.file];
  ErrorPlace place{.file = file.path,
                   .offset = read.offset,
                   .expected_bytes = std::min(read.bytes, file.info.bytes - read.offset),
                   .actual_bytes = completion.bytes,
                   .backend = parts_.storage.path().backend};
  for (const TensorSpec& tensor : layer.tensors) {
    const auto* extent = std::get_if<FileExtent>(&tensor.source);
    if (extent == nullptr || extent->file != read.file) continue;
    if (extent->offset < read.offset + read.bytes && read.offset < extent->offset + tensor.bytes) {
      place.tensor = layer.full_name(tensor);
      break;
    }
  }
  const bool ended = completion.error == make_error_code(Errc::kEndOfFile);
  return std::make_exception_ptr(Error(ended ? Errc::kEndOfFile : Errc::kReadFailed,
                                       ended ? "the file ends early" : "read failed", std::move(place),
                                       ended ? std::error_code{} : completion.error));
}

/// Gives a block back whose bytes nobody needs.
void StagingLoop::release_unread(BlockUse& use) {
  if (parts_.trace) trace_block(TraceEvent::Kind::kRead, use);
  --targets_[use.target].blocks_reading;
  use.block.reset();
}

void StagingLoop::copy_block(std::uint32_t block_index) {
  BlockUse& use = blocks_[block_index];
  Target& target = targets_[use.target];
  const std::byte* source = use.block->memory().data();
  if (parts_.trace) trace_block(TraceEvent::Kind::kRead, use);
  for (const BlockCopy& copy : use.copies) {
    queue_copy(place_in(target, copy.slot_offset), source + copy.block_offset, copy.bytes);
  }
  parts_.copies.record(*use.copied);
  last_copied_ = use.copied.get();
  copying_.push_back(block_index);
  --target.blocks_reading;
  ++target.blocks_copying;
}

/// Copies end in the order in which they were queued.
void StagingLoop::finish_copies() {
  auto done = copying_.begin();
  for (; done != copying_.end() && blocks_[*done].copied->done(); ++done) {
    Target& target = targets_[blocks_[*done].target];
    --target.blocks_copying;
    if (parts_.trace) trace_block(TraceEvent::Kind::kCopy, blocks_[*done]);
    blocks_[*done].block.reset();
  }
  copying_.erase(copying_.begin(), done);
  copy_window_.finish(parts_.trace);
}

// --- Who gets which slot ---

void StagingLoop::give_slots() {
  for (Target& target : targets_) {
    const bool may_be_poisoned =
        parts_.rule.poisons && is_slot(target) && target.stage == Target::Stage::kPublished;
    if (!may_be_poisoned || !parts_.hand_off.is_poisoned(index_of(target))) continue;
    // It may have been wanted for the use that has just ended, and for no other: the next round tells.
    std::erase(wanted_, target.layer);
    parts_.hand_off.look_again();
    give_up(target);
  }
  std::ranges::fill(is_wanted_, std::uint8_t{0});
  for (const std::uint32_t layer : wanted_) is_wanted_[layer] = 1;
  for (Target& target : targets_) {
    if (is_slot(target) || target.stage == Target::Stage::kAbandoned) settle(target);
  }
  make_room();
  assign_targets();
  slots_pending_ =
      std::ranges::any_of(wanted_, [this](auto layer) { return needs_slot(layer) && !target_of_[layer]; }) ||
      std::ranges::any_of(targets_, [](const Target& t) { return t.stage == Target::Stage::kAbandoned; });
}

bool StagingLoop::is_free_soon(const Target& target) const {
  return target.stage == Target::Stage::kEmpty || target.stage == Target::Stage::kAbandoned;
}

/// Gives up what is wanted last or not at all, as far as nearer layers need the slots.
void StagingLoop::make_room() {
  std::ptrdiff_t spoken_for = 0;  // slots free soon that nearer layers will take
  for (std::size_t rank = 0; rank < wanted_.size(); ++rank) {
    const std::uint32_t layer = wanted_[rank];
    if (target_of_[layer] || !needs_slot(layer)) continue;
    const auto free_soon =
        std::ranges::count_if(slots_for(layer), [&](const Target& t) { return is_free_soon(t); });
    if (free_soon <= spoken_for) make_room_for(rank);
    if (!parts_.rule.stable) ++spoken_for;
  }
}

/// Leases may hold slots of layers that are not wanted, so the wanted ones need not all have room: the
/// farthest gives way.
void StagingLoop::make_room_for(std::size_t rank) {
  const std::uint32_t layer = wanted_[rank];
  for (Target& target : slots_for(layer)) {
    if (!is_free_soon(target) && !is_wanted_[target.layer] && give_up(target)) return;
  }
  for (std::size_t farther = wanted_.size() - 1; farther > rank; --farther) {
    const std::optional<std::uint32_t> slot = target_of_[wanted_[farther]];
    if (!slot || !parts_.rule.allows(layer, *slot)) continue;
    if (give_up(targets_[*slot])) return;
  }
}

/// The targets that `layer` may use.
std::span<StagingLoop::Target> StagingLoop::slots_for(std::uint32_t layer) {
  const auto slots = std::span(targets_).first(parts_.rule.slots);
  return parts_.rule.stable ? slots.subspan(parts_.rule.stable_slot_of(layer), 1) : slots;
}

/// False: it is leased.
bool StagingLoop::give_up(Target& target) {
  if (target.stage == Target::Stage::kPublished) {
    if (!parts_.hand_off.try_reclaim(index_of(target))) return false;
    target.load = {};  // accounted for by the hand-off
  }
  abandon(target);
  return true;
}

void StagingLoop::assign_targets() {
  for (const std::uint32_t layer : wanted_) {
    settle(staying(layer));
    if (staying(layer).stage == Target::Stage::kEmpty) start(staying(layer), layer);
  }
  for (const std::uint32_t layer : wanted_) {
    if (target_of_[layer] || !needs_slot(layer)) continue;
    std::optional<SlotArena::Slot> slot = parts_.rule.stable
                                              ? parts_.slots.try_take(parts_.rule.stable_slot_of(layer))
                                              : parts_.slots.try_take();
    if (!slot && !parts_.rule.stable) return;  // the nearest layer waits: no later one goes before it
    if (!slot) continue;
    Target& target = targets_[slot->index()];
    target.slot = std::move(slot);
    start(target, layer);
  }
}

// --- From empty to published ---

void StagingLoop::start(Target& target, std::uint32_t layer) {
  target.stage = Target::Stage::kFilling;
  target.layer = layer;
  if (is_slot(target)) {
    target.layout = &streamed_layout(layer);
    target_of_[layer] = index_of(target);
  }
  target.next_landing = 0;
  target.next_fill = 0;
  target.host_copies = HostCopies(*target.layout);
  target.load = {};
  if (!is_slot(target) && layer != outside_layer())
    target.load.gpu = parts_.residents.taken_over_bytes(layer);
  if (!target.layout->mapped_copies.empty() || (!is_slot(target) && mapped_bytes(layer) != 0)) {
    target.waits_for_pages = true;
    target.pages_since = parts_.trace.now();
    ++waiting_for_pages_;
    if (parts_.page_cache->state(layer) != PageCache::State::kReady) parts_.page_cache->ask_for(layer);
    take_pages(target);
  } else {
    settle(target);  // nothing to read: it is ready at once
  }
}

/// Copies from pages that are not registered hold up this thread. Once that is known, storage reads them from
/// the page cache, by threads of its own, into ring blocks.
const LayerLayout& StagingLoop::streamed_layout(std::uint32_t layer) {
  const LayerLayout& mapped = parts_.plan.layers[layer];
  if (mapped.mapped_copies.empty() || blocks_.empty()) return mapped;
  if (parts_.page_cache->state(layer) != PageCache::State::kReady ||
      parts_.page_cache->is_registered(layer)) {
    return mapped;
  }
  std::optional<LayerLayout>& layout = unregistered_[layer];
  if (!layout) {
    layout = make_layer_layout(parts_.table.layers[layer], parts_.table.files, parts_.plan.rules,
                               {parts_.plan.homes[layer]});
    layout->memory_copies = mapped.memory_copies;  // which are cut where what is registered ends
  }
  return *layout;
}

/// Goes on with a target whose pages have come, or have failed to.
void StagingLoop::take_pages(Target& target) {
  PageCache& pages = *parts_.page_cache;
  const PageCache::State state = pages.state(target.layer);
  if (state == PageCache::State::kComing) return;
  if (state == PageCache::State::kFailed) {
    parts_.hand_off.fail(target.layer, pages.error(target.layer));
    return abandon(target);
  }
  target.waits_for_pages = false;
  --waiting_for_pages_;
  const std::uint64_t read_bytes = pages.take_read_bytes(target.layer);
  parts_.hand_off.links().disk.add_bytes(read_bytes);
  read_for_[target.layer] += read_bytes;
  if (parts_.trace && read_bytes != 0) trace(TraceEvent::Kind::kRead, target, target.pages_since, read_bytes);
  if (!is_slot(target)) {
    use_kept(target, target.load.page_cache, again_[target.layer].page_cache);
    use_kept(target, target.load.pinned, again_[target.layer].pinned);
  }
  settle(target);
}

/// Takes the target from its layer. Its memory comes free once nothing is under way into it.
void StagingLoop::abandon(Target& target) {
  if (target.stage == Target::Stage::kFilling) {
    parts_.copies.record(*target.ready);  // copies queued so far still write to it
    if (target.open_block) {
      BlockUse& use = blocks_[*target.open_block];
      if (use.reads_under_way == 0) release_unread(use);
      close_block(target);
    }
    if (std::exchange(target.waits_for_pages, false)) --waiting_for_pages_;
    target.load.disk += std::exchange(read_for_[target.layer], 0);  // the next use finds the pages there
  }
  target.stage = Target::Stage::kAbandoned;
  slots_pending_ = true;
  if (is_slot(target)) target_of_[target.layer].reset();
  settle(target);
}

/// Moves the target on if its stage is complete.
void StagingLoop::settle(Target& target) {
  if (target.is_reading()) return;
  if (target.stage == Target::Stage::kFilling) {
    if (target.waits_for_pages || !target.host_copies.all_queued() || !target.all_reads_begun()) return;
    is_slot(target) ? finish(target) : finish_staying(target);
  } else if (target.stage == Target::Stage::kAbandoned) {
    if (target.blocks_copying != 0 || !target.ready->done()) return;
    parts_.hand_off.add_unused(target.load);
    target.stage = Target::Stage::kEmpty;
    target.slot.reset();
  }
}

void StagingLoop::finish(Target& target) {
  if (!is_there(target.layer)) return;
  parts_.copies.record(*target.ready);
  target.stage = Target::Stage::kPublished;
  target.load.disk += std::exchange(read_for_[target.layer], 0);  // beyond the layer's own bytes
  parts_.hand_off.charge_wait(cause_);
  if (parts_.trace) trace(TraceEvent::Kind::kPublish, target, parts_.trace.now(), target.load.total());
  parts_.hand_off.publish(index_of(target), target.layer, *target.ready, target.load);
}

void StagingLoop::finish_staying(Target& target) {
  const std::uint32_t layer = target.layer;
  parts_.copies.record(*target.ready);
  target.stage = Target::Stage::kPublished;
  if (!needs_slot(layer)) target.load.disk += std::exchange(read_for_[layer], 0);  // as in `finish`
  parts_.hand_off.stay(layer, *target.ready, target.load, again_[layer]);
  if (needs_slot(layer)) {
    if (target_of_[layer]) settle(targets_[*target_of_[layer]]);
    return;
  }
  parts_.hand_off.charge_wait(cause_);
  if (parts_.trace) trace(TraceEvent::Kind::kPublish, target, parts_.trace.now(), target.load.total());
  parts_.hand_off.publish(layer);
}

// --- Reads ---

/// Nearest use first, as far as storage takes requests and the ring has blocks. What was begun is ended.
void StagingLoop::start_reads() {
  requests_.clear();
  room_ = parts_.storage.free_requests();
  for (const std::uint32_t layer : wanted_) {
    if (requests_.size() == room_) break;
    start_reads(staying(layer));
    if (target_of_[layer]) start_reads(targets_[*target_of_[layer]]);
  }
  // A target that is not wanted any more may have been stopped in the middle of a block: it must not keep it.
  if (open_blocks_ != 0) {
    for (Target& target : targets_) {
      while (requests_.size() < room_ && target.open_block) read_into_open_block(target);
    }
  }
  if (requests_.empty()) return;
  if (parts_.storage.submit(requests_) != requests_.size()) {
    throw Error(Errc::kInternal, "storage took fewer requests than it said it had room for");
  }
}

void StagingLoop::start_reads(Target& target) {
  if (target.stage != Target::Stage::kFilling) return;
  start_landings(target);
  while (requests_.size() < room_ && (target.open_block || open_block(target))) read_into_open_block(target);
}

void StagingLoop::start_landings(Target& target) {
  const std::vector<FileRead>& reads = target.layout->landings;
  for (; target.next_landing < reads.size() && requests_.size() < room_; ++target.next_landing) {
    const FileRead& read = reads[target.next_landing];
    const ReadId id{true, index_of(target), static_cast<std::uint32_t>(target.next_landing)};
    requests_.push_back(
        {to_tag(id), FileId{read.file}, read.offset, {place_in(target, read.target_offset), read.bytes}});
    if (target.landings_under_way++ == 0) target.landing_since = parts_.trace.now();
  }
}

/// Queues the next read of the target's open block, and closes it after the last.
void StagingLoop::read_into_open_block(Target& target) {
  BlockUse& use = blocks_[*target.open_block];
  const FileRead& read = use.reads[use.next_read];
  const ReadId id{false, *target.open_block, static_cast<std::uint32_t>(use.next_read)};
  requests_.push_back({to_tag(id), FileId{read.file}, read.offset,
                       use.block->memory().subspan(read.target_offset, read.bytes)});
  ++use.reads_under_way;
  if (++use.next_read == use.reads.size()) close_block(target);
}

void StagingLoop::close_block(Target& target) {
  target.open_block.reset();
  --open_blocks_;
}

/// False: the target needs no further block, or there is none.
bool StagingLoop::open_block(Target& target) {
  if (target.next_fill == target.layout->fills.size()) return false;
  if (blocks_reading() >= max_blocks_reading_) return false;
  std::optional<PinnedRing::Block> block = parts_.ring.try_take();
  if (!block) return false;
  const std::uint32_t index = block->index();
  BlockUse& use = blocks_[index];
  use.block = std::move(block);
  use.target = index_of(target);
  use.reads = target.layout->reads_of(target.next_fill);
  use.copies = target.layout->copies_of(target.next_fill++);
  use.next_read = 0;
  use.read_bytes = 0;
  use.since = parts_.trace.now();
  target.open_block = index;
  ++open_blocks_;
  ++target.blocks_reading;
  return true;
}

// --- Copies out of host memory ---

/// Copies out of host memory, nearest use first, as far as the window has room.
void StagingLoop::start_copies() {
  for (const std::uint32_t layer : wanted_) {
    if (!copy_window_.has_room()) return;
    start_copies(staying(layer));
    if (target_of_[layer]) start_copies(targets_[*target_of_[layer]]);
  }
}

void StagingLoop::start_copies(Target& target) {
  if (target.stage != Target::Stage::kFilling || target.host_copies.all_queued()) return;
  while (copy_window_.has_room() && queue_batch(target)) {
  }
  settle(target);
}

/// False: nothing of the target can be copied at this time.
bool StagingLoop::queue_batch(Target& target) {
  const std::chrono::nanoseconds begin = parts_.trace.now();
  const PageCache* const pages = target.waits_for_pages ? nullptr : parts_.page_cache;
  const std::uint64_t most = most_batch_bytes();
  std::uint64_t queued = 0;
  while (const std::optional<HostCopies::Copy> copy = target.host_copies.next(pages)) {
    const std::uint64_t room = most - queued;
    const std::uint64_t bytes =
        copy->bytes <= room ? copy->bytes : room / kTensorAlignment * kTensorAlignment;
    if (bytes < copy->bytes && bytes == 0) break;
    queue_copy(place_in(target, copy->slot_offset), copy->source, bytes);
    if (copy->kept_file) {
      use_kept(target, kept_tier(target.load, *copy->kept_file), bytes);
    } else {
      target.load.pinned += bytes;
    }
    queued += bytes;
    target.host_copies.advance(*copy, bytes);
  }
  if (queued == 0) return false;
  last_copied_ =
      &copy_window_.end_batch(parts_.copies, event_of(TraceEvent::Kind::kCopy, target, begin, queued));
  return true;
}

/// While a device registers memory, each call to it waits for milliseconds. In batches of the copy window's
/// size the first layer came up to 1.5 times as late; so till then all of it is one batch, in as few calls as
/// can be.
std::uint64_t StagingLoop::most_batch_bytes() {
  if (!pages_settled_) {
    const auto is_coming = [this](std::uint32_t layer) {
      return parts_.page_cache->state(layer) == PageCache::State::kComing;
    };
    pages_settled_ = parts_.page_cache == nullptr ||
                     std::ranges::none_of(std::views::iota(0u, outside_layer()), is_coming);
  }
  return pages_settled_ ? copy_window_.batch_bytes() : std::numeric_limits<std::uint64_t>::max();
}

/// Counts kept bytes. The disk has brought those that had to be read for this.
void StagingLoop::use_kept(Target& target, std::uint64_t& tier, std::uint64_t bytes) {
  std::uint64_t& read = read_for_[target.layer];
  const std::uint64_t not_there = std::min(bytes, read);
  read -= not_there;
  target.load.disk += not_there;
  tier += bytes - not_there;
}

/// The tier of kept bytes of `file`.
std::uint64_t& StagingLoop::kept_tier(TierBytes& bytes, std::uint32_t file) const {
  return parts_.table.files[file].info.is_local_file ? bytes.page_cache : bytes.pinned;
}

// --- What it waits for ---

const StagingLoop::Target* StagingLoop::missing(std::uint32_t layer) const {
  if (!is_there(layer) || !needs_slot(layer)) return &staying(layer);
  return target_of_[layer] ? &targets_[*target_of_[layer]] : nullptr;
}

/// The earliest unfinished stage of the last bytes of the layer that is waited for most urgently.
StallCause StagingLoop::cause_of_wait() const {
  if (wanted_.empty()) return StallCause::kSlot;
  const Target* const missing_part = missing(wanted_.front());
  if (missing_part == nullptr) return StallCause::kSlot;
  const Target& target = *missing_part;
  if (target.waits_for_pages) return StallCause::kDisk;
  if (target.stage == Target::Stage::kPublished) return StallCause::kCopy;
  if (target.all_reads_begun() && !target.open_block) {
    return target.is_reading() ? StallCause::kDisk : StallCause::kCopy;
  }
  if (parts_.storage.free_requests() == 0) return StallCause::kDisk;
  // The rest waits for a block: is it the disk or the copies that hold them?
  if (blocks_reading() == 0) return StallCause::kCopy;
  return blocks_reading() == max_blocks_reading_ ? StallCause::kDisk : StallCause::kRing;
}

std::size_t StagingLoop::blocks_reading() const {
  return blocks_.size() - parts_.ring.free_blocks() - copying_.size();
}

std::chrono::nanoseconds StagingLoop::patience() {
  if (stopping_) return kDrainInterval;
  const bool copies_unheard = !parts_.copies.notifies() && (last_copied_ != nullptr || slots_pending_);
  if (copies_unheard || (slots_pending_ && parts_.slots.fences_pending())) return kPollInterval;
  return parts_.hand_off.may_sleep() ? std::chrono::nanoseconds::max() : std::chrono::nanoseconds{0};
}

// --- What it tells ---

void StagingLoop::queue_copy(std::byte* destination, const std::byte* source, std::uint64_t bytes) {
  parts_.copies.copy(destination, source, bytes);
  parts_.hand_off.links().host_to_device.add_bytes(bytes);
}

void StagingLoop::meter_links() {
  LinkMeters& links = parts_.hand_off.links();
  links.disk.set_busy(parts_.storage.in_flight() != 0 || waiting_for_pages_ != 0);
  // What waits for the end of copies is to see it, in the next step: till then they count as under way.
  const bool all_seen = copying_.empty() && copy_window_.empty();
  if (all_seen && last_copied_ != nullptr && last_copied_->done()) last_copied_ = nullptr;
  links.host_to_device.set_busy(last_copied_ != nullptr);
}

void StagingLoop::trace_landings(Target& target, const Completion& completion) {
  target.landed_bytes += completion.bytes;
  if (target.landings_under_way != 0) return;
  trace(TraceEvent::Kind::kRead, target, target.landing_since, std::exchange(target.landed_bytes, 0));
}

/// What has kept the block busy until now.
void StagingLoop::trace_block(TraceEvent::Kind kind, BlockUse& use) {
  std::uint64_t bytes = use.read_bytes;
  if (kind == TraceEvent::Kind::kCopy) {
    bytes = 0;
    for (const BlockCopy& copy : use.copies) bytes += copy.bytes;
  }
  use.since = trace(kind, targets_[use.target], use.since, bytes, use.block->index());
}

/// But for its end.
TraceEvent StagingLoop::event_of(TraceEvent::Kind kind, const Target& target, std::chrono::nanoseconds begin,
                                 std::uint64_t bytes, std::uint32_t block) const {
  const bool is_outside = &target == &targets_.back();
  return {.kind = kind,
          .layer = target.layer,
          .slot = is_outside ? TraceEvent::kNone : index_of(target),
          .block = block,
          .begin = begin,
          .bytes = bytes};
}

/// Returns the event's end, which is now.
std::chrono::nanoseconds StagingLoop::trace(TraceEvent::Kind kind, const Target& target,
                                            std::chrono::nanoseconds begin, std::uint64_t bytes,
                                            std::uint32_t block) {
  TraceEvent event = event_of(kind, target, begin, bytes, block);
  event.end = parts_.trace.now();
  parts_.trace.record(event);
  return event.end;
}

}  // namespace tierstream
