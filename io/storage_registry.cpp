#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/io/error.h>
#include <tierstream/io/file_backends.h>
#include <tierstream/io/storage_registry.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace tierstream {
namespace {

constexpr std::string_view kSeparator = "://";

/// RFC 3986, section 3.1, in lower case; and the underscore, for io_uring.
bool is_scheme(std::string_view text) {
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  return !text.empty() && is_letter(text.front()) && std::ranges::all_of(text, [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.' || c == '_';
  });
}

}  // namespace

StorageRegistry::StorageRegistry()
    : makes_{{"file", make_file_backend},
             {"io_uring", make_io_uring_backend},
             {"posix", [](const StorageOptions& options) { return make_posix_backend(options); }}} {}

void StorageRegistry::add(std::string scheme, Make make) {
  if (!is_scheme(scheme))
    throw Error(Errc::kInvalidArgument, fmt::format("\"{}\" cannot be a scheme", scheme));
  makes_.insert_or_assign(std::move(scheme), std::move(make));
}

StorageRegistry::Resolved StorageRegistry::resolve(const std::string& address,
                                                   const StorageOptions& options) const {
  std::string scheme = "file";
  std::string path = address;
  // "./a://b" is a path: what stands before the separator is no scheme.
  const std::size_t separator = address.find(kSeparator);
  if (separator != std::string::npos && is_scheme(std::string_view(address).substr(0, separator))) {
    scheme = address.substr(0, separator);
    path = address.substr(separator + kSeparator.size());
  }
  const auto found = makes_.find(scheme);
  if (found == makes_.end()) {
    std::vector<std::string_view> known;
    for (const auto& [name, make] : makes_) known.push_back(name);
    throw Error(
        Errc::kUnknownScheme,
        fmt::format("no storage is known for scheme \"{}\"; known: {}", scheme, fmt::join(known, ", ")),
        {.file = address});
  }
  return {[make = found->second, options] { return make(options); }, std::move(path)};
}

}  // namespace tierstream
