#pragma once

#include <tierstream/io/layer_table.h>

#include <functional>
#include <iosfwd>
#include <span>
#include <string>

namespace tierstream {

/// A file that a command writes at its end: what would keep it from that shows when it begins.
///
///   LateFile file(path);               // before the work
///   file.write([&](std::ostream& out) { ... });
///
/// What the path held stays until `write`; a file that was not there is removed if it does not get written.
/// Errors: Error, naming the file; kWriteFailed where nothing else is said.
class LateFile {
 public:
  explicit LateFile(std::string path);
  LateFile(const LateFile&) = delete;
  LateFile& operator=(const LateFile&) = delete;
  ~LateFile();

  const std::string& path() const noexcept { return path_; }
  /// Whether `path` is a way to the same file.
  bool is(const std::string& path) const;
  // Writing over what is read would destroy it: both throw Error kInvalidArgument.
  void refuse_sources(std::span<const SourceFile> sources) const;
  void refuse(const std::string& source) const;
  void write(const std::function<void(std::ostream&)>& content);

 private:
  void remove_ours() const;
  [[noreturn]] void fail(const char* action) const;

  const std::string path_;
  bool is_ours_;  ///< made by the constructor, and not written yet
};

}  // namespace tierstream
