#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "simulated_device.h"

namespace tierstream::simulation {

/// Lies told on purpose, to see that the simulation notices them.
struct Lies {
  DeviceLies device;
  bool storage_completes_early = false;
  bool storage_loses_wakes = false;
  bool copies_all_at_once = false;  ///< the loop is told of a window that is wider than what is checked
};

struct Outcome {
  std::uint64_t leases = 0;
  std::uint64_t tensors_checked = 0;
  std::uint64_t read_errors = 0;
  std::uint64_t too_many_leases = 0;
  std::uint64_t device_failures = 0;
  std::uint64_t budget_changes = 0;
  std::uint64_t residents_kept = 0;  ///< over changes of the budget
  std::uint64_t poisoned_slots = 0;
};

/// What the staging loop did wrong.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Makes a model, budgets, storage, a device and callers out of `seed`, and drives the staging loop through
/// one interleaving of all of them, single-threaded: storage completes in any order, late, short or with
/// errors; copies and compute finish late; the loop sleeps until it is woken; callers lease in and out of
/// order, hold several leases, skip, repeat, abandon passes and give up waiting; budgets change; the device
/// may fail.
///
/// Checks that every tensor has the right bytes at the beginning and end of each use on its stream, that
/// a slot that is poisoned when its last lease ends is so to its last byte when it is written to again, that
/// errors surface at the acquire of the layer they hit with file, tensor and offset, that a lease is refused
/// only when every slot is leased, that blocks all come back, that no more copies out of host memory are
/// queued than the copy window holds, that the bytes of each lease are counted, that nothing which a change
/// of the budget keeps on the device moves or is brought again, and that everything ends. Throws Failure.
Outcome simulate(std::uint64_t seed, const Lies& lies = {});

}  // namespace tierstream::simulation
