#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>

#include "posix_backend.h"
#include "requirements.h"

namespace tierstream {

std::unique_ptr<StorageBackend> make_file_backend(const StorageOptions& options) {
  try {
    return make_io_uring_backend(options);
  } catch (const Error& refusal) {
    if (refusal.errc() != Errc::kBackendUnavailable) throw;
    const Fallback fallback{"io_uring", refusal.what()};
    refuse_if_required(options.require_io_uring, fallback, refusal.place());
    return make_posix_backend(options, {fallback});
  }
}

}  // namespace tierstream
