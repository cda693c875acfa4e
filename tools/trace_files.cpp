#include "tools/trace_files.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <exception>
#include <ostream>

namespace tierstream {

TraceFiles::TraceFiles(const std::string& trace_path, const std::string& timeline_path) {
  if (!trace_path.empty()) chrome_.emplace(trace_path);
  if (!timeline_path.empty()) timeline_.emplace(timeline_path);
  if (chrome_ && timeline_ && chrome_->is(timeline_path)) {
    throw Error(Errc::kInvalidArgument, "--trace and --timeline need a file each", {.file = trace_path});
  }
  if (chrome_ || timeline_) trace_ = std::make_shared<Trace>();
}

void TraceFiles::refuse_sources(std::span<const SourceFile> sources) const {
  for (const std::optional<LateFile>* file : {&chrome_, &timeline_}) {
    if (*file) (*file)->refuse_sources(sources);
  }
}

std::string TraceFiles::write() {
  std::string written;
  std::exception_ptr failure;
  const auto write_one = [&](std::optional<LateFile>& file, const auto& write_content,
                             const std::string& line) {
    if (!file) return;
    try {
      file->write([&](std::ostream& out) { write_content(*trace_, out); });
      written += line;
    } catch (const Error&) {
      failure = failure ? failure : std::current_exception();
    }
  };
  if (chrome_) {
    const std::uint64_t dropped = trace_->dropped();
    write_one(
        chrome_, write_chrome_trace,
        fmt::format("trace   {}{}\n", printable(chrome_->path()),
                    dropped == 0 ? "" : fmt::format("; {} did not fit", counted(dropped, "earlier event"))));
  }
  if (timeline_)
    write_one(timeline_, write_timeline, fmt::format("picture {}\n", printable(timeline_->path())));
  if (failure) std::rethrow_exception(failure);
  return written;
}

std::string TraceFiles::write_what_there_is() noexcept {
  try {
    if (trace_ && !trace_->events().empty()) return write();
  } catch (...) {  // the run's own failure is what counts
  }
  return {};
}

}  // namespace tierstream
