#pragma once

#include <tierstream/tiers/device.h>
#include <tierstream/tiers/layer_layout.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "trace_recorder.h"

namespace tierstream {

/// How far copies out of host memory are queued ahead. A copy engine serves one after the other whatever
/// stream they are of, so all that is queued holds up the caller's own copies, and the layer that becomes the
/// most urgent meanwhile. 64 MiB take PCIe 5 1.2 ms: enough to keep it busy until the loop comes by again.
struct CopyWindowShape {
  std::uint32_t batches = 4;
  std::uint64_t batch_bytes = 16u << 20;  ///< a multiple of kTensorAlignment, where copies are cut
};

/// The copies out of host memory that are queued and not seen done, in batches with an event each.
/// Threads: one at a time.
class CopyWindow {
 public:
  CopyWindow(Device& device, const CopyWindowShape& shape) : shape_(shape), batches_(shape.batches) {
    for (Batch& batch : batches_) batch.done = device.make_event();
  }

  bool has_room() const { return under_way_ < batches_.size(); }
  bool empty() const { return under_way_ == 0; }
  std::uint64_t batch_bytes() const { return shape_.batch_bytes; }

  /// What was queued since the last call is a batch. There is room. Returns its event.
  const Event& end_batch(CopyQueue& copies, const TraceEvent& copied) {
    Batch& batch = batches_[(first_ + under_way_++) % batches_.size()];
    batch.copied = copied;
    copies.record(*batch.done);
    return *batch.done;
  }

  /// Lets go of batches that are done: copies end in the order in which they were queued.
  void finish(const TraceRecorder& trace) {
    for (; under_way_ > 0 && batches_[first_].done->done(); --under_way_) {
      TraceEvent& copied = batches_[first_].copied;
      if (trace) {
        copied.begin = std::max(copied.begin, last_end_);
        copied.end = last_end_ = trace.now();
        trace.record(copied);
      }
      first_ = (first_ + 1) % batches_.size();
    }
  }

 private:
  struct Batch {
    std::unique_ptr<Event> done;
    TraceEvent copied;  ///< but for its end
  };

  CopyWindowShape shape_;
  std::vector<Batch> batches_;  // a ring
  std::size_t first_ = 0;       // that is under way
  std::size_t under_way_ = 0;
  std::chrono::nanoseconds last_end_{0};
};

}  // namespace tierstream
