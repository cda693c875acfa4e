#pragma once

#include <tierstream/io/file_backends.h>

#include <memory>
#include <vector>

namespace tierstream {

/// As the public one; `reasons` say why this backend was taken instead of another.
std::unique_ptr<StorageBackend> make_posix_backend(const StorageOptions& options,
                                                   std::vector<Fallback> reasons);

}  // namespace tierstream
