#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/streamer/streamer.h>

#include <utility>

#include "streamer_core.h"

namespace tierstream {
namespace {

std::uint32_t checked_layer(std::size_t layer, std::size_t count) {
  if (layer < count) return static_cast<std::uint32_t>(layer);
  throw Error(Errc::kInvalidArgument,
              fmt::format("layer {} is out of range: there are 0 to {}", layer, count - 1));
}

}  // namespace

Streamer::Streamer(LayerTable table, StreamerOptions options)
    : core_(std::make_shared<StreamerCore>(std::move(table), std::move(options))) {}

Streamer::Streamer(Streamer&&) noexcept = default;

Streamer& Streamer::operator=(Streamer&& other) noexcept {
  Streamer taken(std::move(other));
  std::swap(core_, taken.core_);
  return *this;
}

Streamer::~Streamer() {
  if (core_) core_->stop();
}

std::size_t Streamer::layer_count() const noexcept { return core_->layer_count(); }
const LayerTable& Streamer::table() const noexcept { return core_->table(); }
const Plan& Streamer::plan() const noexcept { return core_->plan(); }
Device& Streamer::device() const noexcept { return core_->device(); }

Lease Streamer::acquire(std::size_t layer, const AcquireOptions& options) {
  const std::uint32_t index = checked_layer(layer, layer_count());
  StreamerCore::Leased leased = core_->acquire(index, options);
  return Lease(core_, std::move(leased.staging), index, leased.place, options.stream);
}

Pass Streamer::pass(PassOptions options) { return Pass(*this, std::move(options)); }

TensorView Streamer::outside(std::string_view name, const AcquireOptions& options) {
  return core_->outside_tensor(name, options);
}

StreamerStats Streamer::stats() const { return core_->stats(); }
StoragePath Streamer::storage_path() const { return core_->storage_path(); }
PageCacheStatus Streamer::page_cache_status() const { return core_->page_cache_status(); }
RamWeightsStatus Streamer::ram_weights_status() const { return core_->ram_weights_status(); }
std::string Streamer::registration_refusal() const { return core_->registration_refusal(); }

std::uint64_t Streamer::generation() const noexcept { return core_->generation(); }

Budget Streamer::set_budget(const Budget& budget) { return core_->set_budget(budget); }
void Streamer::replace(std::span<const TensorChange> changes) { core_->replace(changes); }
Budget Streamer::park() { return core_->park(); }
void Streamer::resume() { core_->resume(); }
void Streamer::close() { core_->close(); }

Pass::Pass(Streamer& streamer, PassOptions options)
    : streamer_(&streamer),
      own_schedule_(std::move(options.schedule)),
      schedule_(own_schedule_.empty() ? streamer.core_->default_order() : own_schedule_),
      stream_(options.stream),
      stop_(std::move(options.stop)) {
  for (const std::uint32_t layer : schedule_) checked_layer(layer, streamer.layer_count());
  streamer_->core_->begin_pass(schedule_, !options.last, stream_);
}

Pass::Pass(Pass&& other) noexcept
    : streamer_(std::exchange(other.streamer_, nullptr)),
      own_schedule_(std::move(other.own_schedule_)),
      schedule_(other.schedule_),
      stream_(other.stream_),
      stop_(std::move(other.stop_)) {}

Pass::~Pass() {
  if (streamer_ != nullptr) streamer_->core_->end_pass(stream_);
}

Lease Pass::acquire(std::size_t position) {
  if (position >= schedule_.size()) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("step {} is out of range: the pass has {}", position, schedule_.size()));
  }
  return streamer_->acquire(schedule_[position], {.stream = stream_, .stop = stop_, .deadline = {}});
}

}  // namespace tierstream
