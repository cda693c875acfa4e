#pragma once

#include <tierstream/io/storage_backend.h>
#include <tierstream/streamer/stats.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/streamer/verdict.h>
#include <tierstream/tiers/budget.h>
#include <tierstream/tiers/page_cache.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tierstream {

struct PassReport {
  PassStats stats;
  Verdict verdict;
};

/// What a run over a checkpoint found out.
struct RunReport {
  std::string checkpoint;
  std::string layers;  ///< prefix of their names
  std::string device;
  Budget budget;
  StoragePath path;
  std::string ring_refusal;        ///< why the ring is not registered for DMA; empty: it is
  double first_layer_seconds = 0;  ///< from the command's start until the first layer was ready
  LinkRates rates;                 ///< of the links, as told or measured; 0: unknown
  std::vector<PassReport> passes;
  std::uint64_t kept_bytes = 0;  ///< file pages that the page-cache tier keeps
  PageCacheStatus page_cache;
  StreamerStats::Peak peak_bytes;
  std::uint64_t verified_tensors = 0;
};

/// Adds what is known once the passes are done: the path taken, kept pages, peaks.
void complete(RunReport& report, const Streamer& streamer);

// For people; lines of at most 80 columns, but for names.
std::string describe(const TierBytes& bytes);  ///< "disk 1.00 GiB, gpu 2.00 MiB"; "nothing"
std::string describe_pass(std::size_t number, const PassReport& report, const LinkRates& rates);
std::string describe_end(const RunReport& report);

// For programs: a key, once there, keeps its name and meaning.
nlohmann::json to_json(const TierBytes& bytes);
nlohmann::json to_json(const StallSeconds& stall);
nlohmann::json to_json(const RunReport& report);

}  // namespace tierstream
