#pragma once

#include <tierstream/tiers/device.h>

#include <cstdint>
#include <functional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

namespace tierstream {

/// What one link of this machine gives: the median of several rounds, and their quartiles.
struct LinkRate {
  double bytes_per_second = 0;  ///< 0: not measured, and `refusal` says why
  double low_quartile = 0;      ///< bytes per second
  double high_quartile = 0;     ///< bytes per second
  std::string how;              ///< what moved the bytes, e.g. "8 threads x 1 MiB buffered"
  std::string refusal;
};

struct StorageRates {
  LinkRate disk_direct;            ///< the best of `direct_sweep`, measured anew
  LinkRate disk_buffered;          ///< through the page cache that holds nothing of the file
  LinkRate page_cache_one_thread;  ///< to the program's memory, by pread
  LinkRate page_cache;             ///< the same with as many threads as are fastest
  std::vector<LinkRate> direct_sweep;

  /// Bytes per second by the faster way; 0: unknown.
  double disk() const;
};

struct DeviceRates {
  LinkRate host_to_device;  ///< from registered memory, by the device's copy queue
  LinkRate device_to_host;
  LinkRate registration;  ///< of memory that has its pages
};

struct LinkProbeOptions {
  unsigned rounds = 5;  ///< of everything that is compared, in turns
  /// Of one copy and of one registration; less where memory is short.
  std::uint64_t copy_bytes = 256u << 20;
  /// Called after each reading or copy, with what is measured now and how many of its bytes have been moved.
  std::function<void(const std::string& what, std::uint64_t done_bytes, std::uint64_t total_bytes)> progress =
      {};
  std::stop_token stop = {};
};

// Measure the links that a plan is bound by, with the plainest means: none of tierstream's staging. Cold and
// warm are verified before each reading. Block; a file is read about ten times in each round.
// Threads: any, but probes at the same time measure one another.
// Errors: Error, where a reading or a copy fails; kCancelled when stopped. What the machine refuses is no
// error: it stands in LinkRate::refusal.

/// Reads `file`, which belongs to the process's user, and drops it from the page cache.
StorageRates probe_storage(const std::string& file, const LinkProbeOptions& options = {});

/// The direct reads of `probe_storage` alone, for two seconds, of as much of `files` as is read by then: each
/// piece comes once before any comes again, so that no cache behind the disk answers. Neither the files nor
/// the page cache are changed. `rounds` and `copy_bytes` do not matter.
LinkRate probe_reads(std::span<const std::string> files, const LinkProbeOptions& options = {});

DeviceRates probe_device(Device& device, const LinkProbeOptions& options = {});

}  // namespace tierstream
