#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <utility>

namespace tierstream {
namespace {

const char* text_of(Errc code) {
  switch (code) {
    case Errc::kHeaderTooSmall:
      return "file too small for a safetensors header";
    case Errc::kHeaderTooLarge:
      return "safetensors header larger than the format allows";
    case Errc::kHeaderTruncated:
      return "safetensors header truncated";
    case Errc::kInvalidHeader:
      return "invalid safetensors header";
    case Errc::kInvalidOffset:
      return "tensors overlap or leave a hole";
    case Errc::kTensorInvalidInfo:
      return "a tensor's dtype, shape and offsets disagree";
    case Errc::kMisalignedSlice:
      return "a tensor is not a whole number of bytes";
    case Errc::kUnknownDType:
      return "unknown dtype";
    case Errc::kIncompleteBuffer:
      return "file size and header disagree";
    case Errc::kInvalidIndex:
      return "invalid checkpoint index";
    case Errc::kShardMissing:
      return "shard missing";
    case Errc::kTensorMissing:
      return "tensor missing";
    case Errc::kNoSuchLayers:
      return "no such layers";
    case Errc::kOpenFailed:
      return "file cannot be opened";
    case Errc::kNotARegularFile:
      return "not a regular file";
    case Errc::kReadFailed:
      return "read failed";
    case Errc::kEndOfFile:
      return "file ended early";
    case Errc::kFileChanged:
      return "file changed";
    case Errc::kWriteFailed:
      return "write failed";
    case Errc::kBackendUnavailable:
      return "storage backend unavailable";
    case Errc::kUnknownScheme:
      return "unknown storage scheme";
    case Errc::kRequirementNotMet:
      return "requirement not met";
    case Errc::kInvalidBudget:
      return "invalid budget";
    case Errc::kBudgetTooSmall:
      return "budget too small";
    case Errc::kOutOfMemory:
      return "out of memory";
    case Errc::kDeviceFailed:
      return "device failed";
    case Errc::kTooManyLeases:
      return "too many leases";
    case Errc::kLeasesOutstanding:
      return "leases outstanding";
    case Errc::kTimedOut:
      return "timed out";
    case Errc::kCancelled:
      return "cancelled";
    case Errc::kClosed:
      return "closed";
    case Errc::kStreamCapturing:
      return "stream is being captured";
    case Errc::kNoSuchModule:
      return "no such module";
    case Errc::kWrongModuleType:
      return "wrong module type";
    case Errc::kWeightMismatch:
      return "weights do not match the module";
    case Errc::kModuleChanged:
      return "module changed while it was streamed";
    case Errc::kInvalidArgument:
      return "invalid argument";
    case Errc::kInternal:
      return "internal error";
  }
  return "unknown error";
}

class TierstreamCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "tierstream"; }
  std::string message(int code) const override { return text_of(static_cast<Errc>(code)); }
};

std::string compose(const std::string& message, const ErrorPlace& place, std::error_code cause) {
  std::string line;
  if (!place.file.empty()) line += place.file + ": ";
  if (!place.tensor.empty()) line += fmt::format("tensor \"{}\": ", place.tensor);
  line += message;
  if (place.offset) line += fmt::format(" at byte {}", *place.offset);
  if (place.expected_bytes && place.actual_bytes) {
    line += fmt::format(": expected {} bytes, found {}", *place.expected_bytes, *place.actual_bytes);
  } else if (place.expected_bytes) {
    line += fmt::format(": expected {} bytes", *place.expected_bytes);
  } else if (place.actual_bytes) {
    line += fmt::format(": found {} bytes", *place.actual_bytes);
  }
  if (cause) line += ": " + cause.message();
  if (!place.backend.empty()) line += fmt::format(" [{}]", place.backend);
  return printable(line);
}

}  // namespace

std::string printable(std::string_view text) {
  std::string line;
  line.reserve(text.size());
  const auto byte_at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto escape = [&](std::size_t i) { line += fmt::format("\\x{:02x}", byte_at(i)); };
  for (std::size_t i = 0; i < text.size(); ++i) {
    const unsigned char byte = byte_at(i);
    if (byte < 0x20 || byte == 0x7f) {
      escape(i);
    } else if (byte == 0xc2 && i + 1 < text.size() && byte_at(i + 1) >= 0x80 && byte_at(i + 1) < 0xa0) {
      escape(i);  // U+0080 to U+009F, of which one begins commands to the terminal, in UTF-8
      escape(++i);
    } else {
      line += text[i];
    }
  }
  return line;
}

std::string counted(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

const std::error_category& tierstream_category() noexcept {
  static const TierstreamCategory category;
  return category;
}

std::error_code make_error_code(Errc code) noexcept {
  return {static_cast<int>(code), tierstream_category()};
}

Error::Error(Errc code, const std::string& message, ErrorPlace place, std::error_code cause)
    : std::system_error(make_error_code(code)),
      place_(std::move(place)),
      cause_(cause),
      what_(compose(message, place_, cause)) {}

}  // namespace tierstream
