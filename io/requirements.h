#pragma once

#include <tierstream/io/error.h>
#include <tierstream/io/storage_registry.h>

#include <string>
#include <utility>

namespace tierstream {

/// The one rule about fallbacks: where `required`, an error instead.
inline void refuse_if_required(bool required, const Fallback& fallback, ErrorPlace place) {
  if (!required) return;
  throw Error(Errc::kRequirementNotMet,
              fallback.wanted + " is required but cannot be had: " + fallback.reason, std::move(place));
}

}  // namespace tierstream
