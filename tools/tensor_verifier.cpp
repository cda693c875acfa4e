#include "tools/tensor_verifier.h"

#include <tierstream/io/error.h>

#include <algorithm>
#include <optional>
#include <variant>

#include "tools/synthetic_contents.h"

namespace tierstream {
namespace {

constexpr std::size_t kBufferBytes = 1u << 20;

ErrorPlace place_of(const std::string& full_name, const TensorSpec& tensor, std::uint64_t byte,
                    std::span<const SourceFile> files) {
  const auto* extent = std::get_if<FileExtent>(&tensor.source);
  if (extent == nullptr) return {.tensor = full_name, .offset = byte};
  return {.file = files[extent->file].path, .tensor = full_name, .offset = extent->offset + byte};
}

}  // namespace

TensorVerifier::TensorVerifier(std::uint64_t seed, Device& device, std::span<const SourceFile> files)
    : seed_(seed), device_(device), files_(files), buffer_(kBufferBytes) {}

void TensorVerifier::verify(const std::string& full_name, const TensorView& tensor) {
  const SyntheticContents contents(seed_, tensor.spec->dtype, full_name);
  for (std::uint64_t offset = 0; offset < tensor.spec->bytes; offset += buffer_.size()) {
    const auto part =
        std::span(buffer_).first(std::min<std::uint64_t>(buffer_.size(), tensor.spec->bytes - offset));
    device_.download(part, tensor.data + offset, Stream{});
    if (const std::optional<std::uint64_t> byte = contents.first_difference(offset, part)) {
      throw Error(Errc::kWeightMismatch, "the contents differ from what `tierstream synth` wrote",
                  place_of(full_name, *tensor.spec, *byte, files_));
    }
  }
  ++verified_tensors_;
}

}  // namespace tierstream
