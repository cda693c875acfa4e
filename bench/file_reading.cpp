#include "bench/file_reading.h"

#include <tierstream/io/error.h>

#include <chrono>
#include <span>
#include <utility>

namespace tierstream {

FileReading::FileReading(std::unique_ptr<StorageBackend> storage, const std::string& file,
                         bool registers_buffers)
    : storage_(std::move(storage)), file_(storage_->open(file)) {
  if (registers_buffers) storage_->register_memory(memory_.span());
  for (std::size_t piece = 0; piece < kRequests; ++piece) free_.push_back(piece);
}

void FileReading::run() {
  const std::uint64_t end = storage_->info(file_).bytes;
  std::uint64_t next = 0;
  while (next < end || storage_->in_flight() > 0) {
    batch_.clear();
    for (; next < end && !free_.empty(); next += kRequestBytes) {
      batch_.push_back(
          {free_.back(), file_, next, memory_.span().subspan(free_.back() * kRequestBytes, kRequestBytes)});
      free_.pop_back();
    }
    storage_->submit(batch_);
    const std::size_t count = storage_->collect(completions_, std::chrono::nanoseconds::max());
    for (const Completion& completion : std::span(completions_).first(count)) {
      if (completion.error) {
        throw Error(Errc::kReadFailed, "read failed", {.file = storage_->path_of(file_)}, completion.error);
      }
      free_.push_back(completion.tag);
    }
  }
}

}  // namespace tierstream
