#pragma once

#include <tierstream/io/layer_table.h>
#include <tierstream/streamer/trace.h>

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "tools/late_file.h"

namespace tierstream {

/// The files that `--trace` and `--timeline` ask for.
///
/// Errors: Error kWriteFailed, naming the file; kInvalidArgument for a file that is something else, too.
class TraceFiles {
 public:
  /// Opens the files; an empty path asks for none.
  TraceFiles(const std::string& trace_path, const std::string& timeline_path);

  /// What they are written from; null when neither is asked for.
  const std::shared_ptr<Trace>& trace() const noexcept { return trace_; }
  /// Writing over what is read would destroy it.
  void refuse_sources(std::span<const SourceFile> sources) const;
  /// One that cannot be written does not keep the other from being written. Returns what there is now, for
  /// people.
  std::string write();
  /// The same after a run that failed or was interrupted: what led to that shows best in its trace. Where
  /// nothing was recorded the files stay as they were; one that cannot be written is not told of.
  std::string write_what_there_is() noexcept;

 private:
  std::shared_ptr<Trace> trace_;  // shared with the streamer
  std::optional<LateFile> chrome_;
  std::optional<LateFile> timeline_;
};

}  // namespace tierstream
