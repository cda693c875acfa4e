#pragma once

#include <tierstream/io/safetensors.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "support/test_files.h"

namespace tierstream {

inline std::span<const std::byte> bytes_of_text(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

struct GoldenTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape = {2, 3};

  std::uint64_t bytes() const {
    std::uint64_t bits = bits_per_element(dtype);
    for (const std::int64_t dimension : shape) bits *= static_cast<std::uint64_t>(dimension);
    return bits / 8;
  }
  /// Content that tells any two tensors, and any two places in a tensor, apart.
  std::vector<std::byte> content() const { return pattern_bytes(std::hash<std::string>{}(name), bytes()); }
};

/// A valid file. `skew` shifts the data off its alignment, see format_safetensors_header.
inline std::vector<std::byte> golden_safetensors(const std::vector<GoldenTensor>& tensors,
                                                 const std::map<std::string, std::string>& metadata = {},
                                                 std::uint64_t skew = 0) {
  std::vector<SafetensorsEntry> entries;
  for (const GoldenTensor& tensor : tensors) {
    entries.push_back({tensor.name, tensor.dtype, tensor.shape, 0, tensor.bytes()});
  }
  std::vector<std::byte> file = format_safetensors_header(entries, metadata, skew);
  for (const GoldenTensor& tensor : tensors) {
    const std::vector<std::byte> content = tensor.content();
    file.insert(file.end(), content.begin(), content.end());
  }
  return file;
}

/// A file with just this JSON, right or wrong, and `data_bytes` zeros behind it.
inline std::vector<std::byte> raw_safetensors(std::string_view json, std::uint64_t data_bytes) {
  std::vector<std::byte> file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<std::byte>(std::uint64_t{json.size()} >> (8 * i)));
  const std::span<const std::byte> text = bytes_of_text(json);
  file.insert(file.end(), text.begin(), text.end());
  file.resize(file.size() + data_bytes);
  return file;
}

}  // namespace tierstream
