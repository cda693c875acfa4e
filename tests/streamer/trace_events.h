#pragma once

#include <tierstream/streamer/trace.h>

#include <algorithm>
#include <iterator>
#include <vector>

namespace tierstream {

inline std::vector<TraceEvent> of_kind(TraceEvent::Kind kind, const std::vector<TraceEvent>& events) {
  std::vector<TraceEvent> found;
  std::ranges::copy_if(events, std::back_inserter(found),
                       [kind](const TraceEvent& event) { return event.kind == kind; });
  return found;
}

}  // namespace tierstream
