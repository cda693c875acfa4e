#include <fmt/format.h>
#include <sys/stat.h>
#include <tierstream/io/error.h>
#include <tierstream/io/storage_backend.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "fork_guard.h"

namespace tierstream {
namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;  // read only while a read is paused

constexpr std::uint32_t kMaxBusyTries = 1000;  ///< EAGAIN
constexpr std::uint32_t kMaxStalledTries = 8;  ///< short reads that end where the last one ended
constexpr nanoseconds kLongestWait = std::chrono::hours(1);
constexpr std::size_t kExactReadBytes = 1u << 20;

constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) {
  return value & ~(alignment - 1);
}
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
  return align_down(value + alignment - 1, alignment);
}

constexpr std::uint64_t make_id(std::uint32_t index, std::uint32_t generation) {
  return std::uint64_t{generation} << 32 | index;
}

}  // namespace

bool is_unchanged(const FileInfo& info, int descriptor) noexcept {
  struct stat now {};
  if (::fstat(descriptor, &now) != 0) return false;
  const FileVersion version{.device = now.st_dev,
                            .inode = now.st_ino,
                            .modified_ns = now.st_mtim.tv_sec * 1'000'000'000 + now.st_mtim.tv_nsec};
  return static_cast<std::uint64_t>(now.st_size) == info.bytes && version == info.version;
}

StorageBackend::StorageBackend(StorageLimits limits)
    : limits_(limits), fork_guard_(std::make_unique<ForkGuard>()) {
  if (limits_.max_in_flight == 0 || limits_.max_request_bytes == 0) {
    throw Error(Errc::kInvalidArgument, "a storage backend needs room for at least one request of one byte");
  }
  limits_.max_cached_in_flight = std::max(limits_.max_cached_in_flight, limits_.max_in_flight);
  const std::size_t most = limits_.max_cached_in_flight;
  requests_.resize(most);
  raw_completions_.resize(most);
  to_submit_.reserve(most);
  paused_.reserve(most);
  free_.reserve(most);
  for (std::size_t index = most; index-- > 0;) {
    free_.push_back(static_cast<std::uint32_t>(index));
  }
}

StorageBackend::~StorageBackend() = default;

FileId StorageBackend::open(const std::string& path) {
  check_process();
  if (in_flight_ != 0) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("cannot open a file with {} in flight", counted(in_flight_, "read")),
                {.file = path});
  }
  files_.reserve(files_.size() + 1);  // after do_open nothing may fail
  OpenFile file{path, {}};
  const FileId id{static_cast<std::uint32_t>(files_.size())};
  {
    const std::lock_guard lock(path_mutex_);
    file.info = do_open(id, path);
  }
  const bool is_aligned =
      std::has_single_bit(file.info.offset_alignment) && std::has_single_bit(file.info.memory_alignment);
  files_.push_back(std::move(file));  // also where it is refused: the backend has counted it
  if (!is_aligned) {
    throw Error(Errc::kInternal, "the backend gave an alignment that is no power of two", {.file = path});
  }
  return id;
}

const FileInfo& StorageBackend::info(FileId file) const {
  const auto index = static_cast<std::size_t>(file);
  if (index >= files_.size()) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("no file {} is open; there are {}", index, files_.size()));
  }
  return files_[index].info;
}

const std::string& StorageBackend::path_of(FileId file) const {
  info(file);
  return files_[static_cast<std::size_t>(file)].path;
}

bool StorageBackend::register_memory(std::span<std::byte> memory) {
  check_process();
  const std::lock_guard lock(path_mutex_);
  std::optional<std::string> refusal = do_register_memory(memory);
  if (refusal) note_fallback({"registered buffers", std::move(*refusal)});
  return !refusal;
}

void StorageBackend::unregister_memory() {
  check_process();
  const std::lock_guard lock(path_mutex_);
  do_unregister_memory();
}

std::size_t StorageBackend::submit(std::span<const ReadRequest> requests) {
  check_process();
  const auto accepted = requests.first(std::min(requests.size(), free_requests()));
  for (const ReadRequest& request : accepted) check_request(request);

  to_submit_.clear();
  for (const ReadRequest& request : accepted) begin(request);
  if (accepted.empty()) return 0;
  try {
    start_reads();
  } catch (...) {
    for (const RawRead& read : to_submit_)
      finish(static_cast<std::uint32_t>(read.id), make_error_code(Errc::kInternal));
    throw;
  }
  counters_.requests += accepted.size();
  return accepted.size();
}

std::size_t StorageBackend::collect(std::span<Completion> completions, nanoseconds wait) {
  check_process();
  if (completions.empty()) return 0;
  nanoseconds longest_wait = kLongestWait;
  if (!paused_.empty()) {
    longest_wait = limits_.busy_pause > nanoseconds::zero() ? pause_end_ - Clock::now() : kBusyPause;
  }
  wait = std::max(std::min(wait, longest_wait), nanoseconds::zero());
  const auto room = std::span(raw_completions_).first(std::min(completions.size(), raw_completions_.size()));
  const auto arrived = room.first(do_collect(room, wait));

  to_submit_.clear();
  end_pause();
  std::size_t finished = 0;
  for (const RawCompletion& raw : arrived) {
    if (settle(raw, completions[finished])) ++finished;
  }
  if (!to_submit_.empty()) finished += start_again(completions.subspan(finished));
  return finished;
}

std::size_t StorageBackend::free_requests() const noexcept {
  const std::size_t most = uncached_ == 0 ? limits_.max_cached_in_flight : limits_.max_in_flight;
  return std::min(most - std::min(most, in_flight_), limits_.max_in_flight);
}

StoragePath StorageBackend::path() const {
  const std::lock_guard lock(path_mutex_);
  StoragePath path = do_path();
  path.fallbacks.insert(path.fallbacks.end(), fallbacks_.begin(), fallbacks_.end());
  return path;
}

void StorageBackend::note_fallback(Fallback fallback) { fallbacks_.push_back(std::move(fallback)); }

void StorageBackend::note_late_fallback(Fallback fallback) {
  const std::lock_guard lock(path_mutex_);
  note_fallback(std::move(fallback));
}

bool StorageBackend::in_child_process() const noexcept { return fork_guard_->in_child_process(); }

std::optional<std::string> StorageBackend::do_register_memory(std::span<std::byte>) {
  return "this backend has no use for it";
}

bool StorageBackend::do_drop_direct(FileId) { return false; }

void StorageBackend::check_process() const {
  if (in_child_process()) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("this storage backend belongs to the process that made it; after fork() the "
                            "child, {}, needs one of its own",
                            ::getpid()));
  }
}

void StorageBackend::check_request(const ReadRequest& request) const {
  const FileInfo& file = info(request.file);
  const std::size_t bytes = request.destination.size();
  const auto address = reinterpret_cast<std::uintptr_t>(request.destination.data());
  const auto refuse = [&](const std::string& why) {
    throw Error(Errc::kInvalidArgument, "cannot read " + why,
                {.file = path_of(request.file), .offset = request.offset, .backend = do_path().backend});
  };
  if (bytes == 0) refuse("0 bytes");
  if (bytes > limits_.max_request_bytes) {
    refuse(fmt::format("{} bytes at once, the limit is {}", bytes, limits_.max_request_bytes));
  }
  if (request.offset >= file.bytes)
    refuse(fmt::format("at or after the file's end, which is at {}", file.bytes));
  if (request.offset % file.offset_alignment != 0 || bytes % file.offset_alignment != 0) {
    refuse(fmt::format("{} bytes at {}: both must be multiples of {}", bytes, request.offset,
                       file.offset_alignment));
  }
  if (address % file.memory_alignment != 0) {
    refuse(fmt::format("to address {:#x}: it must be a multiple of {}", address, file.memory_alignment));
  }
}

void StorageBackend::begin(const ReadRequest& request) {
  const std::uint32_t index = free_.back();
  free_.pop_back();
  ++in_flight_;
  ++uncached_;
  InFlight& slot = requests_[index];
  slot.request = request;
  slot.expected_bytes =
      std::min<std::uint64_t>(request.destination.size(), info(request.file).bytes - request.offset);
  slot.done_bytes = 0;
  slot.cached_bytes = 0;
  slot.busy_tries = 0;
  slot.stalled_tries = 0;
  slot.without_direct = false;
  slot.cached = false;
  slot.busy = true;
  to_submit_.push_back({make_id(index, slot.generation), request.file, request.offset, request.destination});
}

StorageBackend::RawRead StorageBackend::remaining(std::uint32_t index) const {
  const InFlight& slot = requests_[index];
  const FileInfo& file = info(slot.request.file);
  const std::uint64_t skip =
      align_down(slot.done_bytes, std::max(file.offset_alignment, file.memory_alignment));
  return {make_id(index, slot.generation), slot.request.file, slot.request.offset + skip,
          slot.request.destination.subspan(skip)};
}

void StorageBackend::start_reads() {
  for (RawRead& read : to_submit_) {
    const std::uint64_t bytes =
        std::min<std::uint64_t>(read.destination.size(), info(read.file).bytes - read.offset);
    read.cached = do_is_cached(read.file, read.offset, bytes);
    set_cached(requests_[static_cast<std::uint32_t>(read.id)], read.cached);
  }
  do_submit(to_submit_);
}

/// Does not throw: who collects would lose the reads that have ended.
std::size_t StorageBackend::start_again(std::span<Completion> room) {
  std::error_code error;
  try {
    start_reads();
    return 0;
  } catch (const Error& failure) {
    error = failure.code();
  } catch (...) {
    error = make_error_code(Errc::kInternal);
  }
  std::size_t finished = 0;
  for (const RawRead& read : to_submit_) {
    const auto index = static_cast<std::uint32_t>(read.id);
    if (finished < room.size()) {
      room[finished++] = finish(index, error);
    } else {
      pause(index);
    }
  }
  return finished;
}

void StorageBackend::set_cached(InFlight& request, bool cached) {
  if (std::exchange(request.cached, cached) == cached) return;
  cached ? --uncached_ : ++uncached_;
}

bool StorageBackend::settle(const RawCompletion& raw, Completion& completion) {
  const auto index = static_cast<std::uint32_t>(raw.id);
  if (index >= requests_.size() || !requests_[index].busy ||
      raw.id != make_id(index, requests_[index].generation)) {
    throw Error(Errc::kInternal,
                fmt::format("a completion came for read {:#x}, which is not under way", raw.id),
                {.backend = do_path().backend});
  }
  InFlight& slot = requests_[index];
  const RawRead asked = remaining(index);
  ++slot.generation;

  const auto end = [&](std::error_code error) {
    completion = finish(index, error);
    return true;
  };
  const auto again = [&](std::uint64_t& counter) {
    ++counter;
    to_submit_.push_back(remaining(index));
    return false;
  };

  if (raw.result < 0) {
    std::error_code error(static_cast<int>(-raw.result), std::generic_category());
    if (raw.result == -EINTR) return again(counters_.retried);
    if (raw.result == -EINVAL && try_without_direct(slot, error)) return again(counters_.retried);
    if (raw.result != -EAGAIN || ++slot.busy_tries >= kMaxBusyTries) return end(error);
    ++counters_.retried;
    pause(index);
    return false;
  }

  const auto arrived_bytes = static_cast<std::uint64_t>(raw.result);
  if (arrived_bytes > asked.destination.size()) {
    throw Error(Errc::kInternal, "more bytes arrived than were asked for",
                {.file = path_of(asked.file),
                 .offset = asked.offset,
                 .expected_bytes = asked.destination.size(),
                 .actual_bytes = arrived_bytes,
                 .backend = do_path().backend});
  }
  const std::uint64_t reached =
      std::min(asked.offset - slot.request.offset + arrived_bytes, slot.expected_bytes);
  if (slot.cached && reached > slot.done_bytes) slot.cached_bytes += reached - slot.done_bytes;
  if (reached == slot.expected_bytes) return end({});
  if (arrived_bytes == 0) return end(make_error_code(Errc::kEndOfFile));
  if (reached > slot.done_bytes) {
    slot.done_bytes = reached;
    slot.busy_tries = 0;
    slot.stalled_tries = 0;
  } else if (++slot.stalled_tries >= kMaxStalledTries) {
    // Where reads must be aligned, a file that was cut inside a block shows as reads that end at the same
    // place.
    return end(make_error_code(Errc::kEndOfFile));
  }
  return again(counters_.resubmitted_short);
}

/// Several reads of a file may meet the refusal: the first one ends direct I/O, each of them is tried once
/// more.
bool StorageBackend::try_without_direct(InFlight& slot, std::error_code& error) {
  if (std::exchange(slot.without_direct, true)) return false;
  OpenFile& file = files_[static_cast<std::size_t>(slot.request.file)];
  try {
    const std::lock_guard lock(path_mutex_);
    if (!file.without_direct) file.without_direct = do_drop_direct(slot.request.file);
  } catch (const Error& refusal) {
    error = refusal.code();
  }
  return file.without_direct;
}

void StorageBackend::pause(std::uint32_t index) {
  if (paused_.empty() && limits_.busy_pause > nanoseconds::zero()) {
    pause_end_ = Clock::now() + limits_.busy_pause;
  }
  paused_.push_back(index);
}

void StorageBackend::end_pause() {
  if (paused_.empty()) return;
  if (limits_.busy_pause > nanoseconds::zero() && Clock::now() < pause_end_) return;
  for (const std::uint32_t index : paused_) to_submit_.push_back(remaining(index));
  paused_.clear();
}

Completion StorageBackend::finish(std::uint32_t index, std::error_code error) {
  InFlight& slot = requests_[index];
  slot.busy = false;
  if (!slot.cached) --uncached_;
  free_.push_back(index);
  --in_flight_;
  if (error) return {slot.request.tag, 0, error};
  counters_.bytes += slot.expected_bytes;
  counters_.cached_bytes += slot.cached_bytes;
  return {slot.request.tag, slot.expected_bytes, {}, slot.cached_bytes};
}

namespace {

/// Memory for a read, at any alignment. `abandon` leaves it to a read that may still write to it.
class AlignedBuffer {
 public:
  AlignedBuffer(std::size_t bytes, std::size_t alignment)
      : alignment_(std::align_val_t{alignment}),
        memory_(static_cast<std::byte*>(::operator new(bytes, alignment_)), bytes) {}
  ~AlignedBuffer() { ::operator delete(memory_.data(), alignment_); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  std::span<std::byte> memory() const { return memory_; }
  void abandon() { memory_ = {}; }

 private:
  std::align_val_t alignment_;
  std::span<std::byte> memory_;
};

/// One request from start to end.
std::error_code read_and_wait(StorageBackend& backend, const ReadRequest& request) {
  backend.submit({&request, 1});
  Completion completion;
  while (backend.collect({&completion, 1}, nanoseconds::max()) == 0) {
  }
  return completion.error;
}

}  // namespace

void read_exactly(StorageBackend& backend, FileId file, std::uint64_t offset,
                  std::span<std::byte> destination) {
  if (backend.in_flight() != 0) {
    throw Error(Errc::kInvalidArgument, "read_exactly needs a backend with nothing in flight");
  }
  const FileInfo& info = backend.info(file);
  const auto fail = [&](Errc code, const std::string& what, std::uint64_t where, std::error_code cause) {
    throw Error(code, what,
                {.file = backend.path_of(file),
                 .offset = where,
                 .expected_bytes = destination.size(),
                 .backend = backend.path().backend},
                cause);
  };
  if (offset > info.bytes || destination.size() > info.bytes - offset) {
    fail(Errc::kEndOfFile, fmt::format("the file ends at {}", info.bytes), offset, {});
  }
  if (destination.empty()) return;

  const std::uint64_t alignment = info.offset_alignment;
  const std::uint64_t end = offset + destination.size();
  const std::uint64_t piece_bytes =
      std::min(align_up(std::min(kExactReadBytes, align_up(end, alignment) - align_down(offset, alignment)),
                        alignment),
               align_down(backend.limits().max_request_bytes, alignment));
  AlignedBuffer buffer(piece_bytes, std::max<std::size_t>(info.memory_alignment, alignof(std::max_align_t)));
  while (offset < end) {
    const std::uint64_t start = align_down(offset, alignment);
    std::error_code error;
    try {
      error = read_and_wait(backend, {0, file, start, buffer.memory()});
    } catch (...) {
      if (backend.in_flight() != 0) buffer.abandon();
      throw;
    }
    if (error == Errc::kEndOfFile) fail(Errc::kEndOfFile, "the file has become shorter", start, {});
    if (error) fail(Errc::kReadFailed, "read failed", start, error);
    const std::uint64_t useful = std::min(end, start + piece_bytes) - offset;
    std::memcpy(destination.data() + (destination.size() - (end - offset)),
                buffer.memory().data() + (offset - start), useful);
    offset += useful;
  }
}

}  // namespace tierstream
