#include "hand_off.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <algorithm>
#include <utility>

namespace tierstream {
namespace {

double& seconds_of(StallSeconds& stall, StallCause cause) {
  switch (cause) {
    case StallCause::kDisk:
      return stall.disk;
    case StallCause::kRing:
      return stall.ring;
    case StallCause::kCopy:
      return stall.copy;
    case StallCause::kSlot:
      break;
  }
  return stall.slot;
}

Error given_up(std::uint32_t layer, Errc why) {
  return {why, fmt::format("layer {}: {} while waiting for it", layer,
                           why == Errc::kCancelled ? "cancelled" : "deadline passed")};
}

/// More callers than this waiting at one time make the list grow: rare, and the only allocation.
constexpr std::size_t kExpectedWaiting = 16;

/// Layers that take no slot and are staged ahead: enough to keep the links busy.
constexpr std::uint32_t kAheadWithoutSlot = 3;

}  // namespace

HandOff::HandOff(std::vector<std::uint8_t> needs_slot, SlotRule rule, SlotArena& arena, const Clock& clock,
                 std::function<void()> wake_loop, TraceRecorder trace)
    : needs_slot_(std::move(needs_slot)),
      layers_(static_cast<std::uint32_t>(needs_slot_.size())),
      rule_(rule),
      arena_(arena),
      clock_(clock),
      wake_loop_(std::move(wake_loop)),
      trace_(trace),
      links_(clock),
      schedule_(layers_),
      places_(rule.slots + layers_ + 1),
      stays_(layers_ + 1),
      to_come_(static_cast<std::uint32_t>(std::ranges::count(needs_slot_, 0))),
      place_of_(layers_ + 1, kNone),
      failures_(layers_ + 1),
      only_on_demand_(layers_ + 1) {
  needs_slot_.push_back(0);
  waiting_.reserve(kExpectedWaiting);
  known_.reserve(most_wanted());
}

std::size_t HandOff::most_wanted() const { return kExpectedWaiting + rule_.slots + kAheadWithoutSlot + 1; }

bool HandOff::changed() {
  is_changed_ = true;
  return loop_sleeps_.exchange(false);
}

// --- Callers ---

std::optional<HandOff::Grant> HandOff::grant(std::uint32_t layer, bool& wake) {
  if (is_retired_) throw Retired{};
  if (failed_for_good_) std::rethrow_exception(failed_for_good_);
  if (failures_[layer]) {
    wake |= changed();  // others who wait for it want it anew
    std::rethrow_exception(std::exchange(failures_[layer], nullptr));
  }
  const std::uint32_t index = place_of_[layer];
  if (index == kNone) {
    refuse_hopeless(layer);
    return std::nullopt;
  }
  Place& place = places_[index];
  // The slot is no longer to be had for those who wait for another layer: one of them may now wait in vain.
  if (++place.leases == 1 && !waiting_.empty()) published_.notify_all();
  if (layer != layers_) {
    // On schedule the next slot comes free only at this lease's end, so the loop may sleep on till then.
    if (schedule_.anchor(layer)) wake |= changed();
    schedule_.advance_past(layer);
    account(place);
    is_changed_ = true;
  }
  return Grant{index, {place.ready, stays_[layer].ready}};
}

/// A wait that only another lease's end could satisfy is an error, because that lease may be the caller's
/// own.
void HandOff::refuse_hopeless(std::uint32_t layer) const {
  if (!needs_slot(layer)) return;
  for (std::uint32_t slot = 0; slot < rule_.slots; ++slot) {
    if (rule_.allows(layer, slot) && places_[slot].leases == 0) return;
  }
  throw Error(
      Errc::kTooManyLeases,
      fmt::format("layer {} has no slot: {}; end a lease first, or give the gpu tier more bytes", layer,
                  rule_.stable
                      ? fmt::format("its slot {} is leased to another layer", rule_.stable_slot_of(layer))
                      : fmt::format("all {} are leased", rule_.slots)));
}

void HandOff::account(Place& place) {
  TierBytes bytes;
  if (std::exchange(place.load_counted, true)) {
    bytes.gpu = place.load.total();
  } else {
    bytes = place.load;
  }
  Stay& stay = stays_[place.layer];
  bytes += std::exchange(stay.load_counted, true) ? stay.again : stay.load;
  for (PassStats* stats : {&current_, &total_}) {
    ++stats->layers;
    stats->bytes += bytes;
  }
}

std::optional<HandOff::Grant> HandOff::try_acquire(std::uint32_t layer) {
  // Also where it throws: an error that it takes from those who wait changes what is wanted.
  struct WakeAtTheEnd {
    const std::function<void()>& wake_loop;
    bool wake = false;
    ~WakeAtTheEnd() {
      if (wake) wake_loop();
    }
  } end{wake_loop_};
  const std::scoped_lock lock(mutex_);  // ends first
  std::optional<Grant> granted = grant(layer, end.wake);
  if (!granted && layer != layers_ && schedule_.anchor(layer)) end.wake |= changed();
  return granted;
}

HandOff::Grant HandOff::acquire(std::uint32_t layer, const std::stop_token& stop,
                                std::optional<std::chrono::steady_clock::time_point> deadline) {
  if (stop.stop_requested()) throw given_up(layer, Errc::kCancelled);
  if (const std::optional<Grant> granted = try_acquire(layer)) return *granted;

  begin_wait(layer);
  bool wake = false;
  std::optional<Answer> answer;
  {
    // Not a condition_variable_any, which knows stop tokens: its second mutex makes the sleep dearer.
    const std::stop_callback end_sleep(stop, [this] {
      { const std::scoped_lock lock(mutex_); }  // so that one which has asked and not slept yet hears it
      published_.notify_all();
    });
    std::unique_lock lock(mutex_);
    const auto is_over = [&] {
      return (answer = answer_to(layer, wake)).has_value() || stop.stop_requested();
    };
    if (deadline) {
      published_.wait_until(lock, *deadline, is_over);
    } else {
      published_.wait(lock, is_over);
    }
    if (!answer) wake |= leave(layer);
  }
  if (wake) wake_loop_();
  if (answer) return get(*answer);
  throw given_up(layer, stop.stop_requested() ? Errc::kCancelled : Errc::kTimedOut);
}

/// The end of a wait is one step with what ends it: were the layer still waited for after its error was
/// taken, it would be staged again, and the next caller would get an error that is older than its wait.
std::optional<HandOff::Answer> HandOff::answer_to(std::uint32_t layer, bool& wake) {
  Answer answer;
  try {
    if (const std::optional<Grant> granted = grant(layer, wake)) {
      answer = *granted;
    } else {
      return std::nullopt;
    }
  } catch (...) {
    answer = std::current_exception();
  }
  wake |= leave(layer);
  return answer;
}

HandOff::Grant HandOff::get(const Answer& answer) {
  if (const auto* error = std::get_if<std::exception_ptr>(&answer)) std::rethrow_exception(*error);
  return std::get<Grant>(answer);
}

std::optional<HandOff::Grant> HandOff::try_end_wait(std::uint32_t layer) {
  bool wake = false;
  std::optional<Answer> answer;
  {
    const std::scoped_lock lock(mutex_);
    answer = answer_to(layer, wake);
  }
  if (wake) wake_loop_();
  return answer ? std::optional(get(*answer)) : std::nullopt;
}

void HandOff::begin_wait(std::uint32_t layer) {
  bool wake = false;
  {
    const std::scoped_lock lock(mutex_);
    if (layer != layers_) schedule_.anchor(layer);
    if (waiting_.empty()) charged_until_ = clock_.now();
    const auto found = std::ranges::find(waiting_, layer, &Waiting::layer);
    if (found != waiting_.end()) {
      ++found->callers;
    } else {
      waiting_.push_back({layer, 1});
    }
    someone_waits_ = true;
    wake = changed();
  }
  if (wake) wake_loop_();
}

void HandOff::end_wait(std::uint32_t layer) {
  bool wake = false;
  {
    const std::scoped_lock lock(mutex_);
    wake = leave(layer);
  }
  if (wake) wake_loop_();
}

bool HandOff::leave(std::uint32_t layer) {
  const auto found = std::ranges::find(waiting_, layer, &Waiting::layer);
  if (--found->callers == 0) {
    waiting_.erase(found);
    someone_waits_ = !waiting_.empty();
    failures_[layer] = nullptr;  // nobody is left to hear it
  }
  return changed();  // another caller may go on waiting for a layer whose error this one has taken
}

void HandOff::release(std::uint32_t place, std::span<const Stream> streams) {
  bool wake = false;
  {
    const std::scoped_lock lock(mutex_);
    const bool is_slot = place < rule_.slots;  // what stays is never rewritten: nothing to fence
    if (is_slot) {
      for (const Stream stream : streams) arena_.fence(place, stream);
    }
    if (is_slot && places_[place].leases == 1) {
      if (rule_.poisons) poison(place, streams.back());
      wake = changed();
    }
    --places_[place].leases;  // last: the lease of an error above has not ended
  }
  if (wake) wake_loop_();
}

/// Nobody else gets the layer before the loop has staged it anew.
void HandOff::poison(std::uint32_t slot, Stream stream) {
  arena_.poison(slot, stream);
  places_[slot].is_poisoned = true;
  place_of_[places_[slot].layer] = kNone;
}

void HandOff::begin_pass(std::span<const std::uint32_t> order, bool wraps) {
  bool wake = false;
  {
    const std::scoped_lock lock(mutex_);
    schedule_.begin_pass(order, wraps);
    current_ = {};
    links_before_ = links_work();
    wake = changed();
  }
  if (wake) wake_loop_();
}

PassStats HandOff::end_pass() {
  const std::scoped_lock lock(mutex_);
  current_.links = links_work() - links_before_;
  return std::exchange(current_, {});
}

PassStats HandOff::total() const {
  const std::scoped_lock lock(mutex_);
  PassStats total = total_;
  total.links = links_work();
  return total;
}

void HandOff::add_stall(StallCause cause, std::chrono::nanoseconds time) {
  const std::scoped_lock lock(mutex_);
  count_stall(cause, time);
}

void HandOff::carry_on(const HandOff& before) {
  const std::scoped_lock lock(mutex_, before.mutex_);
  schedule_ = before.schedule_;
  current_ = before.current_;
  total_ = before.total_;
  links_carried_ = before.links_work();
  links_before_ = before.links_before_;
}

bool HandOff::is_leased(std::uint32_t place) const {
  const std::scoped_lock lock(mutex_);
  return places_[place].leases != 0;
}

std::vector<std::uint32_t> HandOff::leased_layers() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::uint32_t> layers;
  for (std::uint32_t place = 0; place < own_place(layers_); ++place) {
    if (places_[place].leases != 0) layers.push_back(places_[place].layer);
  }
  return layers;
}

std::uint32_t HandOff::leases() const {
  const std::scoped_lock lock(mutex_);
  std::uint32_t sum = 0;
  for (std::uint32_t place = 0; place < own_place(layers_); ++place) sum += places_[place].leases;
  return sum;
}

void HandOff::fail_for_good(std::exception_ptr error) noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (!failed_for_good_) failed_for_good_ = std::move(error);
    is_changed_ = true;
  }
  published_.notify_all();
}

void HandOff::retire() noexcept {
  {
    const std::scoped_lock lock(mutex_);
    is_retired_ = true;
  }
  published_.notify_all();
}

void HandOff::drop(std::uint32_t place, std::exception_ptr error) noexcept {
  fail_for_good(std::move(error));  // first: a slot that comes free unfenced must find nothing wanted
  const std::scoped_lock lock(mutex_);
  --places_[place].leases;
}

// --- The staging loop ---

void HandOff::charge(StallCause cause) {
  if (waiting_.empty()) return;
  const std::chrono::nanoseconds now = clock_.now();
  count_stall(cause, now - charged_until_);
  trace_.record({.kind = TraceEvent::Kind::kWait,
                 .cause = cause,
                 .layer = waiting_.front().layer,
                 .begin = charged_until_,
                 .end = now});
  charged_until_ = now;
}

void HandOff::count_stall(StallCause cause, std::chrono::nanoseconds time) {
  const double seconds = std::chrono::duration<double>(time).count();
  seconds_of(current_.stall, cause) += seconds;
  seconds_of(total_.stall, cause) += seconds;
}

void HandOff::charge_wait(StallCause cause) {
  const std::scoped_lock lock(mutex_);
  charge(cause);
}

bool HandOff::is_waited_for(std::uint32_t layer) const {
  return std::ranges::find(waiting_, layer, &Waiting::layer) != waiting_.end();
}

HandOff::Round HandOff::begin_round(std::vector<std::uint32_t>& wanted, StallCause cause) {
  loop_sleeps_ = false;
  if (!is_changed_ && !someone_waits_) return {.changed = false, .someone_waits = false};
  const std::scoped_lock lock(mutex_);
  charge(cause);
  const bool changed = is_changed_.exchange(false);
  if (changed) find_wanted(wanted);
  return {.changed = changed, .someone_waits = !waiting_.empty()};
}

/// As many layers with a slot as there are slots, and of those without, which take nothing from the others,
/// what comes before the last of these.
void HandOff::find_wanted(std::vector<std::uint32_t>& wanted) {
  wanted.clear();
  if (failed_for_good_) return;
  std::uint32_t slots_left = rule_.slots;
  std::uint32_t own_left = kAheadWithoutSlot;
  const auto take = [&](std::uint32_t layer) {
    std::uint32_t& left = needs_slot(layer) ? slots_left : own_left;
    if (left == 0) return;
    --left;
    wanted.push_back(layer);
  };
  for (const Waiting& waiting : waiting_) {
    needs_slot(waiting.layer) ? take(waiting.layer) : wanted.push_back(waiting.layer);
  }
  if (place_of_[layers_] == kNone && std::ranges::find(wanted, layers_) == wanted.end()) {
    wanted.push_back(layers_);
  }
  known_ = wanted;
  schedule_.visit_upcoming(known_, [&](std::uint32_t layer) {
    if (needs_slot(layer)) {
      if (slots_left == 0) return false;
      take(layer);
    } else if (place_of_[layer] == kNone) {
      take(layer);
    }
    return slots_left != 0 || (own_left != 0 && to_come_ != 0);
  });
  std::erase_if(wanted, [&](std::uint32_t layer) {
    return failures_[layer] != nullptr || (only_on_demand_[layer] != 0 && !is_waited_for(layer));
  });
}

bool HandOff::may_sleep() {
  loop_sleeps_ = true;  // before it asks: who changes something from here on sees it, and wakes
  if (!is_changed_) return true;
  loop_sleeps_ = false;
  return false;
}

void HandOff::stay(std::uint32_t layer, const Event& ready, const TierBytes& load, const TierBytes& again) {
  const std::scoped_lock lock(mutex_);
  stays_[layer] = {.ready = &ready, .load = load, .again = again, .load_counted = false};
}

void HandOff::publish(std::uint32_t slot, std::uint32_t layer, const Event& ready, const TierBytes& load) {
  {
    const std::scoped_lock lock(mutex_);
    places_[slot] = {.layer = layer, .leases = 0, .ready = &ready, .load = load, .load_counted = false};
    announce(slot, layer);
  }
  published_.notify_all();
}

void HandOff::publish(std::uint32_t layer) {
  {
    const std::scoped_lock lock(mutex_);
    places_[own_place(layer)].layer = layer;
    if (layer != layers_) --to_come_;
    announce(own_place(layer), layer);
  }
  published_.notify_all();
}

void HandOff::announce(std::uint32_t place, std::uint32_t layer) {
  place_of_[layer] = place;
  only_on_demand_[layer] = 0;
  is_changed_ = true;
}

bool HandOff::try_reclaim(std::uint32_t slot) {
  const std::scoped_lock lock(mutex_);
  Place& place = places_[slot];
  if (place.leases != 0) return false;
  if (!place.load_counted) count_unused(place.load);
  place_of_[place.layer] = kNone;
  place = {};
  return true;
}

bool HandOff::is_poisoned(std::uint32_t slot) const {
  const std::scoped_lock lock(mutex_);
  return places_[slot].is_poisoned;
}

void HandOff::count_unused(const TierBytes& load) {
  current_.unused_bytes += load.total();
  total_.unused_bytes += load.total();
}

void HandOff::add_unused(const TierBytes& load) {
  const std::scoped_lock lock(mutex_);
  count_unused(load);
}

void HandOff::fail(std::uint32_t layer, std::exception_ptr error) {
  {
    const std::scoped_lock lock(mutex_);
    if (is_waited_for(layer)) failures_[layer] = std::move(error);
    only_on_demand_[layer] = 1;
    is_changed_ = true;
  }
  published_.notify_all();
}

}  // namespace tierstream
