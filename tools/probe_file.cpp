#include "tools/probe_file.h"

#include <stdlib.h>
#include <tierstream/io/error.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <span>
#include <vector>

#include "tools/synthetic_contents.h"
#include "tools/uncached_file.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kWriteBytes = 8u << 20;

}  // namespace

ProbeFile::ProbeFile(const std::string& directory)
    : path_((std::filesystem::path(directory) / "tierstream-probe-XXXXXX").string()) {
  const int descriptor = ::mkstemp(path_.data());
  if (descriptor < 0) {
    throw Error(Errc::kWriteFailed, "cannot make a file here", {.file = directory},
                {errno, std::generic_category()});
  }
  ::close(descriptor);
}

ProbeFile::~ProbeFile() { ::unlink(path_.c_str()); }

void ProbeFile::write(std::uint64_t bytes, const LinkProbeOptions& options,
                      const std::function<void()>& on_room) const {
  UncachedFile file(path_, bytes);
  if (on_room) on_room();
  const SyntheticContents contents(0, DType::kU8, "probe");
  std::vector<std::byte> buffer(kWriteBytes);
  for (std::uint64_t done = 0; done < bytes;) {
    if (options.stop.stop_requested()) throw Error(Errc::kCancelled, "writing was stopped");
    const auto part = std::span(buffer).first(std::min(kWriteBytes, bytes - done));
    contents.fill(done, part);
    file.append(part);
    done += part.size();
    if (options.progress) options.progress("writing", done, bytes);
  }
  file.finish();
}

}  // namespace tierstream
