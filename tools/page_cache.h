#pragma once

#include <cstdint>
#include <string>

namespace tierstream {

// Whether a file's pages lie in the page cache: brought about and verified, never assumed.
// Only for files of this process's owner: for others the kernel reports every page as cached.
// Errors: Error, naming the file.

/// Of the file's pages.
std::uint64_t cached_pages(const std::string& file);

/// Throws Error kInternal when a page of the file is cached.
void check_cold(const std::string& file);
/// Throws Error kInternal when a page of the file is not cached.
void check_warm(const std::string& file);

/// Drops the file from the page cache. A page that someone maps or has written survives that: throws Error.
void make_cold(const std::string& file);
/// Reads what is missing of the file into the page cache. The kernel may drop some of it at once: throws
/// Error when that goes on.
void make_warm(const std::string& file);

}  // namespace tierstream
