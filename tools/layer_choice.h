#pragma once

#include <tierstream/io/checkpoint.h>

#include <string>

namespace tierstream {

/// The common prefix of the layers' names: the one that a user asks for, or where that is empty the one of
/// the largest list. Throws Error kNoSuchLayers, naming `address`, where there is no list.
std::string choose_layers(const Checkpoint& checkpoint, const std::string& asked_for,
                          const std::string& address);

}  // namespace tierstream
