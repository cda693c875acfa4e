#include <fmt/format.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cached_read_nap.h"
#include "posix_files.h"
#include "requirements.h"

namespace tierstream {
namespace {

constexpr unsigned kEntriesPerFile = 2;  ///< its descriptor, and the one for cached reads
constexpr unsigned kMaxRegisteredFiles = 1024;
constexpr unsigned kMaxRegisteredBuffers = 1024;
constexpr std::size_t kMaxBufferBytes = 1u << 30;     ///< the kernel's limit for one registered buffer
constexpr std::uint64_t kWakeId = ~std::uint64_t{1};  ///< no read's: those count from 0

std::error_code to_error(int negative_errno) { return {-negative_errno, std::generic_category()}; }

rlim_t limit_of(__rlimit_resource resource) {
  rlimit limit{};
  ::getrlimit(resource, &limit);
  return limit.rlim_cur;
}

[[noreturn]] void fail_unavailable(const std::string& what, int result) {
  std::string why;
  if (result == -EPERM || result == -EACCES) {
    std::string disabled = "not present";
    std::ifstream("/proc/sys/kernel/io_uring_disabled") >> disabled;
    why = fmt::format(
        "; kernel.io_uring_disabled is {}; where that is 0, a seccomp filter forbids it, as container "
        "runtimes do by default",
        disabled);
  } else if (result == -ENOSYS) {
    why = "; the kernel is older than 5.1, or a sandbox hides the call";
  } else if (result == -ENOMEM) {
    why = fmt::format("; RLIMIT_MEMLOCK is {} bytes", limit_of(RLIMIT_MEMLOCK));
  }
  throw Error(Errc::kBackendUnavailable, what + why, {.backend = "io_uring"}, to_error(result));
}

/// Owns the kernel's ring. Made disabled, so that files and memory can be registered before a thread owns it.
class Ring {
 public:
  explicit Ring(unsigned entries) {
    // The best set of flags that this kernel knows, found by trying: distributions backport them.
    constexpr unsigned kClamp = IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED;
    constexpr std::array kLadder = {
        kClamp | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
        kClamp | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
        kClamp,
    };
    int result = -EINVAL;
    io_uring_params params{};
    for (const unsigned flags : kLadder) {
      params = {};
      params.flags = flags;
      result = ::io_uring_queue_init_params(entries, &ring_, &params);
      if (result != -EINVAL) break;
    }
    if (result < 0) fail_unavailable("io_uring_setup failed", result);
    try {
      check_abilities(entries, params);
    } catch (...) {
      ::io_uring_queue_exit(&ring_);
      throw;
    }
  }

  ~Ring() {
    if (ring_.ring_fd >= 0) ::io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  io_uring* get() noexcept { return &ring_; }

  /// The queues are not mapped in a child process: only the descriptor can be given back there.
  void close_in_child() noexcept { ::close(std::exchange(ring_.ring_fd, -1)); }

 private:
  void check_abilities(unsigned entries, const io_uring_params& params) {
    if (params.sq_entries < entries) {
      throw Error(Errc::kInvalidArgument,
                  fmt::format("io_uring takes at most {} requests", params.sq_entries - 1),
                  {.backend = "io_uring"});
    }
    if ((params.features & IORING_FEAT_EXT_ARG) == 0) {
      throw Error(Errc::kBackendUnavailable, "waiting with a time limit needs Linux 5.11",
                  {.backend = "io_uring"});
    }
    const std::unique_ptr<io_uring_probe, void (*)(void*)> probe(::io_uring_get_probe_ring(&ring_),
                                                                 std::free);
    for (const int operation : {IORING_OP_READ, IORING_OP_READ_FIXED}) {
      if (!probe || !::io_uring_opcode_supported(probe.get(), operation)) {
        throw Error(Errc::kBackendUnavailable,
                    fmt::format("the kernel does not offer operation {}", operation),
                    {.backend = "io_uring"});
      }
    }
  }

  io_uring ring_{};
};

/// A filter may let io_uring_setup pass and refuse io_uring_enter: find out now, not at the first layer. On a
/// ring of its own, since the other one belongs to the thread that submits first.
void check_that_enter_works() {
  io_uring ring{};
  int result = ::io_uring_queue_init(1, &ring, 0);
  if (result < 0) fail_unavailable("io_uring_setup failed", result);
  ::io_uring_prep_nop(::io_uring_get_sqe(&ring));
  result = ::io_uring_submit_and_wait(&ring, 1);
  ::io_uring_queue_exit(&ring);
  if (result < 0) fail_unavailable("io_uring_enter failed", result);
}

class IoUringBackend final : public StorageBackend {
 public:
  explicit IoUringBackend(const StorageOptions& options)
      : StorageBackend({.max_in_flight = options.max_in_flight,
                        .max_cached_in_flight = options.max_cached_in_flight,
                        .busy_pause = kBusyPause}),
        options_(options),
        ring_(static_cast<unsigned>(limits().max_cached_in_flight) + 1),  // one more for the wake event
        wake_event_(::eventfd(0, EFD_CLOEXEC)),
        files_(options, "io_uring") {
    if (options.threads == 0u) {
      throw Error(Errc::kInvalidArgument, "0 threads: at least one must read", {.backend = "io_uring"});
    }
    if (!wake_event_.is_open()) fail_unavailable("eventfd failed", -errno);
    register_file_table();
  }

  ~IoUringBackend() override {
    if (in_child_process()) {
      ring_.close_in_child();
      return;
    }
    // Memory that the kernel may still write to is the caller's again only after this.
    std::array<RawCompletion, 16> dropped;
    while (kernel_reads_ > 0 && owner_ == std::this_thread::get_id()) {
      wait_for_news(std::chrono::seconds(1));
      take_arrived(dropped);
    }
    do_unregister_memory();
  }

 private:
  FileInfo do_open(FileId id, const std::string& path) override {
    registered_.reserve(registered_.size() + 1);  // after files_.open only a refusal may throw
    const PosixFile& file = files_.open(path);
    try {
      registered_.push_back(register_file(id, file));
    } catch (...) {
      files_.forget_last();
      throw;
    }
    return file.info;
  }

  /// Puts both descriptors into the table. False: neither, and the reason is noted.
  bool register_file(FileId id, const PosixFile& file) {
    if (table_size_ == 0) return false;
    const unsigned entry = first_entry(id);
    if (entry + kEntriesPerFile > table_size_) {
      refuse_file_table(
          fmt::format("{}: the table has only {} places", file.path, table_size_ / kEntriesPerFile));
      return false;
    }
    const int result = update_file_table(entry, {file.descriptor.get(), file.cached_descriptor.get()});
    if (result == static_cast<int>(kEntriesPerFile)) return true;
    if (result >= 0) update_file_table(entry, {-1, -1});  // the kernel stopped at the second
    refuse_file_table(file.path + ": " +
                      (result < 0 ? to_error(result).message() : "not all of its descriptors were taken"));
    return false;
  }

  int update_file_table(unsigned entry, const std::array<int, kEntriesPerFile>& descriptors) {
    return ::io_uring_register_files_update(ring_.get(), entry, descriptors.data(), kEntriesPerFile);
  }

  bool do_is_cached(FileId file, std::uint64_t offset, std::uint64_t bytes) override {
    return files_.is_cached(file, offset, bytes);
  }

  void do_submit(std::span<const RawRead> reads) override {
    become_owner();
    for (const RawRead& read : reads) {
      io_uring_sqe* entry =
          ::io_uring_get_sqe(ring_.get());  // never null: one place for each request in flight
      prepare(*entry, read);
      // One by one: the kernel merges neighbours that are submitted together, and a disk that serves 16 reads
      // of 1 MiB side by side got 4 of 4 MiB, a tenth slower (docs/benchmarks.md). What the kernel does not
      // take now (EAGAIN, EBUSY) stays in the queue and goes along with the next read or collect.
      ::io_uring_submit(ring_.get());
      cached_in_a_row_ = read.cached ? cached_in_a_row_ + 1 : 0;
    }
    kernel_reads_ += reads.size();
  }

  std::size_t do_collect(std::span<RawCompletion> completions, std::chrono::nanoseconds wait) override {
    become_owner();
    if (wait > CachedReadNap::kLongest && is_busy_with_cached_reads()) take_nap();
    if (::io_uring_cq_ready(ring_.get()) == 0) {
      const int result = wait_for_news(wait);
      if (result < 0 && result != -ETIME && result != -EINTR) {
        throw Error(Errc::kInternal, "io_uring_enter failed", {.backend = "io_uring"}, to_error(result));
      }
    }
    return take_arrived(completions);
  }

  void do_wake() noexcept override {
    const std::uint64_t one = 1;
    // Can only fail when the event already holds 2^64 - 2 wakes.
    [[maybe_unused]] const ssize_t written = ::write(wake_event_.get(), &one, sizeof one);
  }

  std::optional<std::string> do_register_memory(std::span<std::byte> memory) override {
    std::optional<std::string> refusal = register_buffers(memory);
    if (refusal) {
      buffers_refused_ = true;
      refuse_if_required(options_.require_registered, {"registered buffers", *refusal},
                         {.backend = "io_uring"});
    }
    return refusal;
  }

  void do_unregister_memory() override {
    if (buffer_table_) ::io_uring_unregister_buffers(ring_.get());
    buffer_table_ = false;
    buffers_refused_ = false;
    buffers_.clear();
  }

  bool do_drop_direct(FileId file) override { return files_.drop_direct(file); }

  StoragePath do_path() const override {
    return {.backend = "io_uring",
            .direct = files_.all_direct(),
            .cached_reads = files_.all_read_cached(),
            .files_registered = !registered_.empty() && std::ranges::all_of(registered_, std::identity{}),
            .buffers_registered = !buffers_.empty() && !buffers_refused_,
            .fallbacks = files_.fallbacks()};
  }

  static unsigned first_entry(FileId file) { return kEntriesPerFile * static_cast<unsigned>(file); }

  void register_file_table() {
    const std::vector<int> empty(
        std::min<rlim_t>(kEntriesPerFile * kMaxRegisteredFiles, limit_of(RLIMIT_NOFILE)), -1);
    const auto size = static_cast<unsigned>(empty.size());
    const int result = ::io_uring_register_files(ring_.get(), empty.data(), size);
    if (result < 0) {
      refuse_file_table("io_uring_register_files: " + to_error(result).message());
    } else {
      table_size_ = size;
    }
  }

  void refuse_file_table(std::string reason) {
    Fallback fallback{"registered files", std::move(reason)};
    refuse_if_required(options_.require_registered, fallback, {.backend = "io_uring"});
    note_fallback(std::move(fallback));
  }

  /// Adds `memory` to the table, in pieces that the kernel takes: all of it or nothing. Returns why nothing.
  std::optional<std::string> register_buffers(std::span<std::byte> memory) {
    if (!buffer_table_) {
      const int result = ::io_uring_register_buffers_sparse(ring_.get(), kMaxRegisteredBuffers);
      if (result < 0) return "a table of buffers: " + to_error(result).message();
      buffer_table_ = true;
    }
    const std::size_t before = buffers_.size();
    for (std::size_t done = 0; done < memory.size(); done += kMaxBufferBytes) {
      const auto piece = memory.subspan(done, std::min(kMaxBufferBytes, memory.size() - done));
      const int result =
          buffers_.size() < kMaxRegisteredBuffers ? set_buffer(buffers_.size(), piece) : -ENOSPC;
      if (result < 0) {
        while (buffers_.size() > before) {
          buffers_.pop_back();
          set_buffer(buffers_.size(), {});
        }
        return explain_buffer_refusal(result, memory.size());
      }
      buffers_.push_back(piece);
    }
    return std::nullopt;
  }

  int set_buffer(std::size_t index, std::span<std::byte> memory) {
    const iovec entry{memory.data(), memory.size()};
    return ::io_uring_register_buffers_update_tag(ring_.get(), static_cast<unsigned>(index), &entry, nullptr,
                                                  1);
  }

  static std::string explain_buffer_refusal(int result, std::size_t bytes) {
    std::string reason = fmt::format("registering {} bytes: {}", bytes, to_error(result).message());
    if (result == -ENOMEM || result == -EPERM) {
      reason += fmt::format("; RLIMIT_MEMLOCK is {} bytes and {} are needed: raise it or grant CAP_IPC_LOCK",
                            limit_of(RLIMIT_MEMLOCK), bytes);
    } else if (result == -EOPNOTSUPP) {
      reason += "; the memory belongs to a file or a device, which this kernel does not register";
    } else if (result == -EEXIST) {
      reason += "; the ring already belongs to another thread";
    }
    return reason;
  }

  /// The thread that submits or collects first is the only one that the kernel lets in from then on.
  void become_owner() {
    if (owner_ == std::this_thread::get_id()) return;
    if (owner_) {
      throw Error(Errc::kInvalidArgument, "this ring belongs to the thread that first submitted to it",
                  {.backend = "io_uring"});
    }
    // io_uring_enable_rings, which liburing 2.3 declares but does not export.
    const int result = ::io_uring_register(static_cast<unsigned>(ring_.get()->ring_fd),
                                           IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    if (result < 0) fail_unavailable("io_uring_enable_rings failed", result);
    owner_ = std::this_thread::get_id();
    if (options_.threads) limit_workers(*options_.threads);
    arm_wake();
  }

  /// The kernel counts them by thread, not by ring: hence at the owner's. Files should be read by "bounded"
  /// ones; Linux 6.18 was seen to read them by the others.
  void limit_workers(unsigned threads) {
    std::array<unsigned, 2> bounded_and_unbounded{threads, threads};
    const int result = ::io_uring_register_iowq_max_workers(ring_.get(), bounded_and_unbounded.data());
    if (result < 0) {
      note_late_fallback({fmt::format("{} workers at most", threads),
                          "io_uring_register_iowq_max_workers: " + to_error(result).message()});
    }
  }

  /// The ring itself reads the wake event. Wakes that come while no read is armed stay in the event.
  void arm_wake() {
    io_uring_sqe* entry = ::io_uring_get_sqe(ring_.get());
    ::io_uring_prep_read(entry, wake_event_.get(), &wake_value_, sizeof wake_value_, 0);
    ::io_uring_sqe_set_data64(entry, kWakeId);
  }

  void prepare(io_uring_sqe& entry, const RawRead& read) const {
    const PosixFile& file = files_[read.file];
    const bool registered = registered_[static_cast<std::size_t>(read.file)];
    const int descriptor = registered ? static_cast<int>(first_entry(read.file) + (read.cached ? 1 : 0))
                                      : (read.cached ? file.cached_descriptor : file.descriptor).get();
    const auto bytes = static_cast<unsigned>(read.destination.size());
    if (const auto buffer = find_buffer(read.destination)) {
      ::io_uring_prep_read_fixed(&entry, descriptor, read.destination.data(), bytes, read.offset, *buffer);
    } else {
      ::io_uring_prep_read(&entry, descriptor, read.destination.data(), bytes, read.offset);
    }
    // A buffered read would otherwise be carried out inside the submission: its copy at least.
    const bool buffered = read.cached || !file.direct;
    ::io_uring_sqe_set_flags(&entry, (registered ? IOSQE_FIXED_FILE : 0u) | (buffered ? IOSQE_ASYNC : 0u));
    ::io_uring_sqe_set_data64(&entry, read.id);
  }

  std::optional<int> find_buffer(std::span<const std::byte> destination) const {
    const auto holds = [&](std::span<const std::byte> buffer) {
      return destination.data() >= buffer.data() &&
             destination.data() + destination.size() <= buffer.data() + buffer.size();
    };
    const auto found = std::ranges::find_if(buffers_, holds);
    if (found == buffers_.end()) return std::nullopt;
    return static_cast<int>(found - buffers_.begin());
  }

  /// With many, and nothing else; or nearly so: a slow read from before may linger.
  bool is_busy_with_cached_reads() const {
    return kernel_reads_ >= std::max(limits().max_in_flight, CachedReadNap::kFewestReads) &&
           cached_in_a_row_ >= kernel_reads_;
  }

  /// Sleeps outside of the ring: whoever waits there is woken for each read that ends, which took the
  /// processors that copy and compute up to an eighth of a pass ("wakes" in docs/benchmarks.md).
  void take_nap() {
    submit_queued();
    if (::io_uring_cq_ready(ring_.get()) != 0) return;
    pollfd wake{.fd = wake_event_.get(), .events = POLLIN, .revents = 0};
    const timespec length{.tv_sec = 0, .tv_nsec = nap_.length().count()};
    const bool whole = ::ppoll(&wake, 1, &length, nullptr) == 0;
    wait_for_news(std::chrono::nanoseconds::zero());
    if (whole) nap_.learn(::io_uring_cq_ready(ring_.get()), kernel_reads_);
  }

  void submit_queued() {
    if (::io_uring_sq_ready(ring_.get()) > 0) ::io_uring_submit(ring_.get());
  }

  /// Submits what is still queued and lets completions arrive, waiting up to `wait` for the first. Returns 0
  /// or a negative errno, -ETIME when nothing came.
  int wait_for_news(std::chrono::nanoseconds wait) {
    submit_queued();
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(wait);
    __kernel_timespec limit{.tv_sec = seconds.count(), .tv_nsec = (wait - seconds).count()};
    io_uring_getevents_arg argument{};
    argument.ts = reinterpret_cast<std::uintptr_t>(&limit);
    const int result =
        ::io_uring_enter2(static_cast<unsigned>(ring_.get()->ring_fd), 0, wait.count() > 0 ? 1 : 0,
                          IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG,
                          reinterpret_cast<sigset_t*>(&argument), sizeof argument);
    return std::min(result, 0);
  }

  std::size_t take_arrived(std::span<RawCompletion> completions) {
    std::size_t count = 0;
    unsigned seen = 0;
    unsigned head = 0;
    const io_uring_cqe* entry = nullptr;
    io_uring_for_each_cqe(ring_.get(), head, entry) {
      if (entry->user_data == kWakeId) {
        arm_wake();
      } else if (count < completions.size()) {
        completions[count++] = {entry->user_data, entry->res};
      } else {
        break;
      }
      ++seen;
    }
    ::io_uring_cq_advance(ring_.get(), seen);
    kernel_reads_ -= count;
    return count;
  }

  StorageOptions options_;
  Ring ring_;
  FileDescriptor wake_event_;
  std::uint64_t wake_value_ = 0;
  PosixFiles files_;
  std::vector<bool> registered_;               ///< by FileId: stands in the ring's table, at `first_entry`
  unsigned table_size_ = 0;                    ///< entries
  std::vector<std::span<std::byte>> buffers_;  ///< by index in the ring's table
  bool buffer_table_ = false;
  bool buffers_refused_ = false;
  std::optional<std::thread::id> owner_;
  std::size_t kernel_reads_ = 0;     ///< handed to the ring and not come back
  std::size_t cached_in_a_row_ = 0;  ///< of those submitted last
  CachedReadNap nap_;
};

}  // namespace

std::unique_ptr<StorageBackend> make_io_uring_backend(const StorageOptions& options) {
  check_that_enter_works();
  return std::make_unique<IoUringBackend>(options);
}

}  // namespace tierstream
