#include <tierstream/io/error.h>
#include <tierstream/streamer/trace.h>

#include <algorithm>
#include <utility>

namespace tierstream {

Trace::Trace(std::size_t capacity) : ring_(std::max<std::size_t>(capacity, 1)) {}

void Trace::begin(Subject subject) {
  const std::scoped_lock lock(mutex_);
  if (std::exchange(begun_, true)) {
    throw Error(Errc::kInvalidArgument, "a trace records one streamer, and this one has one already");
  }
  subject_ = std::move(subject);
}

void Trace::record(const TraceEvent& event) noexcept {
  const std::scoped_lock lock(mutex_);
  const bool is_wait = event.kind == TraceEvent::Kind::kWait;
  if (is_wait && has_continued(event)) return;
  ring_[recorded_++ % ring_.size()] = event;
  if (is_wait) last_wait_ = recorded_;
}

bool Trace::has_continued(const TraceEvent& event) noexcept {
  if (last_wait_ == 0 || recorded_ - last_wait_ >= ring_.size()) return false;
  TraceEvent& last = ring_[(last_wait_ - 1) % ring_.size()];
  if (last.layer != event.layer || last.cause != event.cause || last.end != event.begin) return false;
  last.end = event.end;
  return true;
}

Trace::Subject Trace::subject() const {
  const std::scoped_lock lock(mutex_);
  return subject_;
}

std::vector<TraceEvent> Trace::events() const {
  std::vector<TraceEvent> events;
  {
    const std::scoped_lock lock(mutex_);
    const std::uint64_t kept = std::min<std::uint64_t>(recorded_, ring_.size());
    events.reserve(kept);
    for (std::uint64_t n = recorded_ - kept; n < recorded_; ++n) events.push_back(ring_[n % ring_.size()]);
  }
  std::ranges::stable_sort(events, {}, &TraceEvent::begin);
  return events;
}

std::uint64_t Trace::dropped() const {
  const std::scoped_lock lock(mutex_);
  return recorded_ - std::min<std::uint64_t>(recorded_, ring_.size());
}

}  // namespace tierstream
