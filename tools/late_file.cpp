#include "tools/late_file.h"

#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

namespace tierstream {
namespace {

bool exists(const std::string& path) {
  std::error_code ignored;  // what is wrong with it shows when it is opened
  return std::filesystem::exists(path, ignored);
}

}  // namespace

LateFile::LateFile(std::string path) : path_(std::move(path)), is_ours_(!exists(path_)) {
  errno = 0;                                   // where std::ofstream leaves the system's reason
  std::ofstream stream(path_, std::ios::app);  // keeps what is there
  if (!stream) fail("create");
  // A full disk takes an empty file, but no byte.
  if (is_ours_ && !stream.put('\n').flush()) {
    const int reason = errno;
    remove_ours();
    errno = reason;
    fail("write");
  }
}

LateFile::~LateFile() { remove_ours(); }

bool LateFile::is(const std::string& path) const {
  std::error_code ignored;  // a source need not be a file
  return std::filesystem::equivalent(path_, path, ignored) &&
         std::filesystem::is_regular_file(path_, ignored);
}

void LateFile::refuse_sources(std::span<const SourceFile> sources) const {
  for (const SourceFile& source : sources) refuse(source.path);
}

void LateFile::refuse(const std::string& source) const {
  if (!is(source)) return;
  throw Error(Errc::kInvalidArgument, "this file is read, so nothing else is written to it", {.file = path_});
}

void LateFile::remove_ours() const {
  std::error_code ignored;
  if (is_ours_) std::filesystem::remove(path_, ignored);
}

void LateFile::write(const std::function<void(std::ostream&)>& content) {
  errno = 0;
  std::ofstream stream(path_, std::ios::binary);
  if (stream) content(stream);
  stream.close();
  if (!stream) fail("write");
  is_ours_ = false;
}

void LateFile::fail(const char* action) const {
  throw Error(Errc::kWriteFailed, fmt::format("cannot {} the file", action), {.file = path_},
              std::error_code(errno, std::generic_category()));
}

}  // namespace tierstream
