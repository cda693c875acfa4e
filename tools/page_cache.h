#pragma once

#include <string>

namespace tierstream {

// Whether a file's pages lie in the page cache: brought about and verified, never assumed.
// Errors: Error, naming the file; also where the kernel does not tell (see tierstream/io/cached_pages.h).

/// Throws Error kInternal when a page of the file is cached.
void check_cold(const std::string& file);
/// Throws Error kInternal when a page of the file is not cached.
void check_warm(const std::string& file);

/// Drops the file from the page cache. False: a page survived that, because someone maps it, or because the
/// file system has no other place for it (tmpfs).
bool try_make_cold(const std::string& file);
/// Reads what is missing of the file into the page cache. The kernel may drop some of it at once: false when
/// that goes on.
bool try_make_warm(const std::string& file);

/// The same, where all else is an Error kInternal.
void make_cold(const std::string& file);
void make_warm(const std::string& file);

}  // namespace tierstream
