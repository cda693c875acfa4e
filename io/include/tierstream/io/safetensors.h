#pragma once

#include <tierstream/io/dtype.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace tierstream {

/// One tensor as a safetensors header describes it.
struct SafetensorsEntry {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;  ///< empty: a scalar; a dimension of 0 is legal
  std::uint64_t offset;             ///< bytes from the start of the file
  std::uint64_t bytes;
};

/// The parsed header of one .safetensors file.
/// Format: 8 bytes little-endian N, N bytes of JSON, then the data; `data_offsets` are relative to byte 8 + N
/// (github.com/huggingface/safetensors, README "Format").
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< in file order; they tile the data with no hole
  std::map<std::string, std::string> metadata;
  std::uint64_t data_start;  ///< 8 + N
};

inline constexpr std::uint64_t kSafetensorsPrefixBytes = 8;  ///< N itself
inline constexpr std::uint64_t kSafetensorsMaxHeaderBytes = 100'000'000;

/// Reads N out of the first 8 bytes of a file of `file_bytes` bytes and checks it against the format's limit
/// and the file's size, before anything of that size is allocated. Throws Error kHeaderTooSmall,
/// kHeaderTooLarge or kHeaderTruncated, naming `path`.
std::uint64_t parse_safetensors_prefix(std::span<const std::byte> first_bytes, std::uint64_t file_bytes,
                                       const std::string& path);

/// Parses and validates the JSON of a header as strictly as the Rust reference does. Stricter where that
/// takes what the format's README does not allow, or what readers would understand differently: duplicate
/// keys, a first byte other than '{', a tensor written as an array or a dtype as an object; and a dimension
/// ends at 2^63 - 1. `json` is exactly N bytes; `file_bytes` is the whole file's size. Throws Error
/// kInvalidHeader (with the byte position), kInvalidOffset, kTensorInvalidInfo, kMisalignedSlice,
/// kUnknownDType or kIncompleteBuffer, naming `path` and the tensor.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> json, std::uint64_t file_bytes,
                                           const std::string& path);

/// The first 8 + N bytes of a file that holds `entries` one after the other in this order; their `offset` and
/// `bytes` are not read but follow from dtype and shape. The JSON is padded with spaces so that the data
/// starts at a multiple of 8, plus `skew`.
std::vector<std::byte> format_safetensors_header(std::span<const SafetensorsEntry> entries,
                                                 const std::map<std::string, std::string>& metadata,
                                                 std::uint64_t skew = 0);

}  // namespace tierstream
