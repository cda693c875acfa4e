// Streams passes over a checkpoint on the CPU device while its budgets change: growing, shrinking, moving
// from tier to tier, parked, with leases out. Whoever watches it from outside learns what the tiers may hold.
//   budget_changes CHECKPOINT STATE_FILE ring|landing

#include <tierstream/io/checkpoint.h>
#include <tierstream/streamer/streamer.h>
#include <tierstream/tiers/cpu_device.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <thread>

#include "budget_state.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint64_t kSamples = 3;  ///< of each state, at least

Budget larger(const Budget& a, const Budget& b) {
  return {std::max(a.gpu, b.gpu), std::max(a.pinned, b.pinned), std::max(a.page_cache, b.page_cache)};
}

class Changes {
 public:
  Changes(const std::string& path, const std::string& state, bool lands)
      : state_(state),
        checkpoint_(Checkpoint::open(path)),
        streamer_((state_.allow(kFirst), checkpoint_.layers("model.layers")),
                  {.device = make_cpu_device({.reads_land = lands}), .budget = kFirst}) {}

  void run() {
    use();
    change({160 * kMiB, 32 * kMiB, 96 * kMiB});
    change({96 * kMiB, 16 * kMiB, 192 * kMiB});
    change({192 * kMiB, 16 * kMiB, 0});
    park();
    change({96 * kMiB, 32 * kMiB, 128 * kMiB});
    shrink_beside_a_lease({80 * kMiB, 16 * kMiB, 64 * kMiB});
    change({300 * kMiB, 32 * kMiB, 0});
    change({64 * kMiB, 16 * kMiB, 32 * kMiB});
    park();
  }

 private:
  void use() {
    for (int pass = 0; pass < 2; ++pass) {
      for (const Lease& layer : streamer_.pass()) sum_ += std::to_integer<unsigned>(*layer.tensor(0).data);
    }
    wait_for_samples();
  }

  void change(const Budget& next) {
    state_.allow(larger(now_, next));
    streamer_.set_budget(next);
    now_ = next;
    state_.allow(now_);
    use();
  }

  /// What the lease holds is counted beside the budget until it ends.
  void shrink_beside_a_lease(const Budget& next) {
    std::optional<Lease> held = streamer_.acquire(3);
    const Budget outstanding = streamer_.set_budget(next);
    now_ = next;
    state_.allow({next.gpu + outstanding.gpu, next.pinned + outstanding.pinned,
                  next.page_cache + outstanding.page_cache});
    wait_for_samples();
    held.reset();
    state_.allow(now_);
    use();
  }

  void park() {
    streamer_.park();
    state_.allow({});
    wait_for_samples();
    state_.allow(now_);
    streamer_.resume();
    use();
  }

  void wait_for_samples() const {
    for (const std::uint64_t seen = state_.samples(); state_.samples() < seen + kSamples;) {
      std::this_thread::yield();
    }
  }

  static constexpr Budget kFirst{96 * kMiB, 32 * kMiB, 64 * kMiB};
  BudgetState state_;
  const Checkpoint checkpoint_;
  Streamer streamer_;
  Budget now_ = kFirst;
  unsigned sum_ = 0;
};

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) try {
  if (argc != 4) return 2;
  tierstream::Changes(argv[1], argv[2], std::string(argv[3]) == "landing").run();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
