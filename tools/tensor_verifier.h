#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/streamer/lease.h>
#include <tierstream/tiers/device.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tierstream {

/// Compares tensors on a device with what a synthetic checkpoint of one seed should hold, through a small
/// buffer: no tensor is copied as a whole.
///
/// Borrows `device` and `files`. Threads: one at a time.
class TensorVerifier {
 public:
  TensorVerifier(std::uint64_t seed, Device& device, std::span<const SourceFile> files);

  /// Throws Error kWeightMismatch at the first byte that differs, naming file, tensor and offset in the file.
  void verify(const std::string& full_name, const TensorView& tensor);

  std::uint64_t verified_tensors() const noexcept { return verified_tensors_; }

 private:
  std::uint64_t seed_;
  Device& device_;
  std::span<const SourceFile> files_;
  std::vector<std::byte> buffer_;
  std::uint64_t verified_tensors_ = 0;
};

}  // namespace tierstream
