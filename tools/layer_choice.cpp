#include "tools/layer_choice.h"

#include <tierstream/io/error.h>

#include <vector>

namespace tierstream {

std::string choose_layers(const Checkpoint& checkpoint, const std::string& asked_for,
                          const std::string& address) {
  if (!asked_for.empty()) return asked_for;
  const std::vector<LayerList> lists = checkpoint.layer_lists();
  if (lists.empty()) throw Error(Errc::kNoSuchLayers, "no list of layers numbered from 0", {.file = address});
  return lists.front().prefix;
}

}  // namespace tierstream
