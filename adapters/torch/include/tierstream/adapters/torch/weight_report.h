#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tierstream {

struct BindOptions {
  /// The checkpoint's name for a weight of the module. For a layer's weights both are names within the layer.
  /// Empty: the names are the same.
  std::function<std::string(std::string_view module_name)> rename = {};
  /// The same for weights outside the layers. Empty: `rename`.
  std::function<std::string(std::string_view module_name)> rename_outside = {};
  /// Tensors of the checkpoint that the module has no place for are no error. Those in layers still travel.
  bool allow_unexpected = false;
  /// Parameters that the checkpoint lacks keep the module's values and move to the device, as buffers do.
  bool allow_missing = false;
  /// For finding code that keeps a layer's weights beyond its lease: weights are placeholders of NaN between
  /// leases, and the memory that a lease bound them to is filled with NaN when it ends. Every weight is then
  /// copied once more on the device, into memory for it, so that those that stay on the device are covered.
  /// `stream` also has the slots poisoned, as StreamerOptions::poison alone does.
  bool poison = false;
};

/// A function that renames by rules: the first one whose first part a name begins with replaces that part by
/// its second. {{"lm_head.", "lm_head."}, {"", "model."}} puts "model." before all names but those of
/// lm_head.
std::function<std::string(std::string_view)> rename_prefixes(
    std::vector<std::pair<std::string, std::string>> rules);

/// Where a module and a checkpoint differ: the full names, in order.
struct WeightReport {
  std::vector<std::string> missing;     ///< parameters that the checkpoint lacks
  std::vector<std::string> unexpected;  ///< tensors that the module has no place for
  std::vector<std::string> unlike;      ///< other shape, or a dtype that does not convert: the name and both

  bool empty() const noexcept { return missing.empty() && unexpected.empty() && unlike.empty(); }
};

/// One line, each list cut to what a person reads.
std::string describe(const WeightReport& report);

}  // namespace tierstream
