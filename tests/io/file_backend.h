#pragma once

#include <gtest/gtest.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/io/storage_backend.h>

#include <memory>
#include <ostream>
#include <string>

namespace tierstream {

/// One of the backends that read the system's files, for tests that hold for each.
struct FileBackend {
  std::string name;
  std::unique_ptr<StorageBackend> (*make)(const StorageOptions&);
  friend void PrintTo(const FileBackend& backend, std::ostream* out) { *out << backend.name; }
};

inline auto file_backends() {
  return testing::Values(FileBackend{"io_uring", make_io_uring_backend},
                         FileBackend{"posix", make_posix_backend});
}

}  // namespace tierstream
