#pragma once

#include <tierstream/streamer/stats.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

namespace tierstream {

/// Something that took from `begin` to `end`, or happened at one time, as the host saw it.
struct TraceEvent {
  enum class Kind : std::uint8_t {
    kRead,     ///< reads into one ring block, or a run of reads that landed in a slot without a break,
               ///< or of a layer's kept pages, from when it began to wait for them
    kCopy,     ///< copies out of one ring block, or from where the bytes lie in host memory
    kPublish,  ///< a layer became ready: its copies were queued
    kLease,    ///< a caller used a layer; where the device works asynchronously: queued its work on it
    kWait,     ///< a caller waited for a layer
    kPass,     ///< one walk over the layers
  };
  static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

  Kind kind;
  StallCause cause = {};        ///< of a wait
  std::uint32_t layer = 0;      ///< L: the tensors outside the L layers; of a pass: its number, from 1
  std::uint32_t slot = kNone;   ///< where the layer's bytes are on the device
  std::uint32_t block = kNone;  ///< of the ring
  std::chrono::nanoseconds begin{0};
  std::chrono::nanoseconds end{0};
  std::uint64_t bytes = 0;  ///< moved
};

/// Records what a streamer does, for `write_chrome_trace` and `write_timeline`.
///
///   const auto trace = std::make_shared<Trace>();
///   Streamer streamer(table, {.budget = budget, .trace = trace});
///   for (Lease layer : streamer.pass()) use(layer);
///   std::ofstream file("pass.svg");
///   write_timeline(*trace, file);
///
/// Memory for `capacity` events (40 bytes each) is taken at once, beside the budgets; recording allocates
/// nothing. When it is full, the oldest events go, so that the last pass is there.
/// Threads: any; one mutex, held for a few operations, by `events` for as long as the copy takes.
class Trace {
 public:
  /// A dozen passes over 80 GB in blocks of 8 MiB; 10 MiB of memory.
  static constexpr std::size_t kDefaultCapacity = std::size_t{1} << 18;

  /// What the numbers in the events stand for.
  struct Subject {
    std::vector<std::string> layers = {};  ///< names, by number
    std::uint32_t ring_blocks = 0;
  };

  explicit Trace(std::size_t capacity = kDefaultCapacity);

  /// Called once, by the streamer. Throws Error kInvalidArgument when there is one already.
  void begin(Subject subject);

  /// A wait that goes on where the last one ended, for the same layer and cause, becomes one with it.
  void record(const TraceEvent& event) noexcept;

  Subject subject() const;
  std::vector<TraceEvent> events() const;  ///< in the order of their begin
  std::uint64_t dropped() const;           ///< events that made room for later ones

 private:
  bool has_continued(const TraceEvent& event) noexcept;

  mutable std::mutex mutex_;
  bool begun_ = false;
  Subject subject_;
  std::vector<TraceEvent> ring_;  // the event with number n at n mod its size
  std::uint64_t recorded_ = 0;
  std::uint64_t last_wait_ = 0;  // its number plus 1; 0: none
};

// Neither throws when `out` cannot be written to: look at its state afterwards.

/// The trace as JSON for Perfetto (ui.perfetto.dev) or chrome://tracing: disk, copies, slots and waits as
/// threads. Source of the format: "Trace Event Format", the Catapult project.
void write_chrome_trace(const Trace& trace, std::ostream& out);

/// The last pass that ended, if only by an error, as a picture (SVG, 1200 pixels wide): disk, ring, copies,
/// compute and waits over time.
void write_timeline(const Trace& trace, std::ostream& out);

}  // namespace tierstream
