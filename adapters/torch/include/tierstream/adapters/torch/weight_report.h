#pragma once

#include <tierstream/io/error.h>

#include <cstddef>
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
  /// Of a buffer's full name: nobody writes to it. One of a layer that the source has is then streamed as a
  /// parameter is; written to all the same, it loses that when its lease ends. Empty: all buffers stay on the
  /// device, and what is written to them.
  std::function<bool(std::string_view full_name)> is_read_only = {};
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

/// Where a module and a checkpoint differ, in order.
struct WeightReport {
  struct Entry {
    std::string name;  ///< in full
    std::string what;  ///< in words: shape and dtype, "[48, 48] Float"; of `unlike` both; may be empty
  };
  std::vector<Entry> missing = {};     ///< parameters that the checkpoint lacks
  std::vector<Entry> unexpected = {};  ///< tensors that the module has no place for
  std::vector<Entry> unlike = {};      ///< other shape, or a dtype that does not convert
  std::vector<Entry> unstreamed = {};  ///< of a LoRA: weights that do not travel
  std::size_t module_layers = 0;
  std::size_t checkpoint_layers = 0;

  bool empty() const noexcept {
    return missing.empty() && unexpected.empty() && unlike.empty() && unstreamed.empty() &&
           module_layers == checkpoint_layers;
  }
};

/// One line, each list cut to what a person reads.
std::string describe(const WeightReport& report);

/// Error kWeightMismatch, with all that differs for programs.
class WeightMismatch : public Error {
 public:
  /// `message` is followed by the description of `report`.
  WeightMismatch(const std::string& message, WeightReport report);

  const WeightReport& report() const noexcept { return report_; }

 private:
  WeightReport report_;
};

}  // namespace tierstream
