#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace tierstream {

/// What went wrong, for programs. One list for the whole library, so that a caller catches one type.
enum class Errc {
  // safetensors
  kHeaderTooSmall = 1,
  kHeaderTooLarge,
  kHeaderTruncated,
  kInvalidHeader,
  kInvalidOffset,
  kTensorInvalidInfo,
  kMisalignedSlice,
  kUnknownDType,
  kIncompleteBuffer,
  // checkpoints
  kInvalidIndex,
  kShardMissing,
  kTensorMissing,
  kNoSuchLayers,
  // storage
  kOpenFailed,
  kNotARegularFile,
  kReadFailed,
  kEndOfFile,
  kFileChanged,
  kWriteFailed,
  kBackendUnavailable,
  kUnknownScheme,
  kRequirementNotMet,
  // tiers
  kInvalidBudget,
  kBudgetTooSmall,
  kOutOfMemory,
  kDeviceFailed,
  // streaming
  kTooManyLeases,
  kLeasesOutstanding,
  kTimedOut,
  kCancelled,
  kClosed,
  kStreamCapturing,
  // adapters
  kNoSuchModule,
  kWrongModuleType,
  kWeightMismatch,
  kModuleChanged,
  // anywhere
  kInvalidArgument,
  kInternal,
};

const std::error_category& tierstream_category() noexcept;
std::error_code make_error_code(Errc code) noexcept;

/// `text` with its control characters escaped: names come from files that may be hostile, and would otherwise
/// break a line or command the terminal.
std::string printable(std::string_view text);

/// "1 slot", "3 slots".
std::string counted(std::uint64_t count, std::string_view noun);

/// Where it went wrong. Empty fields are left out of the message.
struct ErrorPlace {
  std::string file = {};
  std::string tensor = {};
  std::optional<std::uint64_t> offset = {};  ///< byte in `file`
  std::optional<std::uint64_t> expected_bytes = {};
  std::optional<std::uint64_t> actual_bytes = {};
  std::string backend = {};
};

/// The one exception type of tierstream. `code()` is an `Errc`; where the operating system gave a reason,
/// `cause()` holds it. `what()` is a single line, control characters escaped:
///
///   FILE: tensor "TENSOR": MESSAGE at byte OFFSET: expected E bytes, found A: CAUSE [BACKEND]
///
/// Everything but MESSAGE comes from `place` and `cause`, so a message does not repeat what stands there.
class Error : public std::system_error {
 public:
  Error(Errc code, const std::string& message, ErrorPlace place = {}, std::error_code cause = {});

  Errc errc() const noexcept { return static_cast<Errc>(code().value()); }
  const ErrorPlace& place() const noexcept { return place_; }
  std::error_code cause() const noexcept { return cause_; }
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  ErrorPlace place_;
  std::error_code cause_;
  std::string what_;
};

}  // namespace tierstream

template <>
struct std::is_error_code_enum<tierstream::Errc> : std::true_type {};
