#include "tools/trace_files.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <exception>
#include <filesystem>
#include <ostream>
#include <system_error>

namespace tierstream {
namespace {

bool is_same_file(const std::string& one, const std::string& other) {
  std::error_code ignored;  // a source need not be a file
  return std::filesystem::equivalent(one, other, ignored) && std::filesystem::is_regular_file(one, ignored);
}

}  // namespace

TraceFiles::TraceFiles(const std::string& trace_path, const std::string& timeline_path) {
  if (!trace_path.empty()) chrome_.emplace(trace_path);
  if (!timeline_path.empty()) timeline_.emplace(timeline_path);
  if (chrome_ && timeline_ && is_same_file(trace_path, timeline_path)) {
    throw Error(Errc::kInvalidArgument, "--trace and --timeline need a file each", {.file = trace_path});
  }
  if (chrome_ || timeline_) trace_ = std::make_shared<Trace>();
}

void TraceFiles::refuse_sources(std::span<const SourceFile> sources) const {
  for (const std::optional<LateFile>* file : {&chrome_, &timeline_}) {
    if (!*file) continue;
    for (const SourceFile& source : sources) {
      if (!is_same_file((*file)->path(), source.path)) continue;
      throw Error(Errc::kInvalidArgument, "this file is read, so no trace goes there",
                  {.file = (*file)->path()});
    }
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
    write_one(chrome_, write_chrome_trace,
              fmt::format("trace   {}{}\n", printable(chrome_->path()),
                          dropped == 0 ? "" : fmt::format("; {} earlier events did not fit", dropped)));
  }
  if (timeline_)
    write_one(timeline_, write_timeline, fmt::format("picture {}\n", printable(timeline_->path())));
  if (failure) std::rethrow_exception(failure);
  return written;
}

}  // namespace tierstream
