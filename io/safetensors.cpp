#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tierstream/io/error.h>
#include <tierstream/io/safetensors.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <optional>
#include <tuple>
#include <utility>

#include "json_reader.h"

namespace tierstream {
namespace {

/// A tensor as the JSON has it: offsets count from the first byte of data, nothing is checked against
/// anything.
struct DescribedTensor {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin;
  std::uint64_t end;
};

/// "2x3 F32"
std::string describe(const std::vector<std::int64_t>& shape, DType dtype) {
  if (shape.empty()) return fmt::format("scalar {}", name_of(dtype));
  return fmt::format("{} {}", fmt::join(shape, "x"), name_of(dtype));
}

std::uint64_t bytes_of(const std::vector<std::int64_t>& shape, DType dtype, const ErrorPlace& place) {
  std::uint64_t bits = 1;
  // Dimension by dimension from the left and the element's width last: where a 0 stands decides whether the
  // reference sees an overflow.
  bool overflow = false;
  for (const std::int64_t dimension : shape) {
    overflow |= __builtin_mul_overflow(bits, static_cast<std::uint64_t>(dimension), &bits);
  }
  overflow |= __builtin_mul_overflow(bits, std::uint64_t{bits_per_element(dtype)}, &bits);
  if (overflow) {
    throw Error(Errc::kTensorInvalidInfo, fmt::format("{} overflows 64 bits", describe(shape, dtype)), place);
  }
  if (bits % 8 != 0) {
    throw Error(Errc::kMisalignedSlice,
                fmt::format("{} takes {} bits, not whole bytes", describe(shape, dtype), bits), place);
  }
  return bits / 8;
}

DType read_dtype(JsonReader::Value value) {
  const std::string name = value.string();
  const std::optional<DType> dtype = parse_dtype(name);
  if (!dtype) value.refuse(Errc::kUnknownDType, fmt::format("unknown dtype \"{}\"", name));
  return *dtype;
}

std::vector<std::int64_t> read_shape(JsonReader::Value value) {
  std::vector<std::int64_t> shape;
  value.read_array([&](JsonReader::Value element) {
    const std::uint64_t dimension = element.unsigned_integer();
    if (!std::in_range<std::int64_t>(dimension)) {
      element.refuse(Errc::kTensorInvalidInfo, fmt::format("dimension {} is too large", dimension));
    }
    shape.push_back(static_cast<std::int64_t>(dimension));
  });
  return shape;
}

std::pair<std::uint64_t, std::uint64_t> read_data_offsets(JsonReader::Value value) {
  std::array<std::uint64_t, 2> offsets{};
  std::size_t count = 0;
  value.read_array([&](JsonReader::Value element) {
    const std::uint64_t offset = element.unsigned_integer();
    if (count < offsets.size()) offsets[count] = offset;
    ++count;
  });
  if (count != offsets.size()) {
    value.refuse(Errc::kInvalidHeader, fmt::format("expected 2 data_offsets, found {}", count));
  }
  return {offsets[0], offsets[1]};
}

DescribedTensor read_tensor(const std::string& name, JsonReader::Value value) {
  std::optional<DType> dtype;
  std::optional<std::vector<std::int64_t>> shape;
  std::optional<std::pair<std::uint64_t, std::uint64_t>> offsets;
  value.read_object([&](const std::string& key, JsonReader::Value member) {
    if (key == "dtype") {
      dtype = read_dtype(member);
    } else if (key == "shape") {
      shape = read_shape(member);
    } else if (key == "data_offsets") {
      offsets = read_data_offsets(member);
    } else {
      member.skip();
    }
  });
  const char* missing = !dtype ? "dtype" : !shape ? "shape" : !offsets ? "data_offsets" : nullptr;
  if (missing) value.refuse(Errc::kInvalidHeader, fmt::format("no {}", missing));
  return {name, *dtype, std::move(*shape), offsets->first, offsets->second};
}

/// Checks that `tensors`, sorted by offset, tile [0, `data_bytes`) and that each fills its place.
void check_tiling(const std::vector<DescribedTensor>& tensors, std::uint64_t data_bytes,
                  const std::string& path) {
  const DescribedTensor* previous = nullptr;
  std::uint64_t covered = 0;
  for (const DescribedTensor& tensor : tensors) {
    ErrorPlace place{.file = path, .tensor = tensor.name};
    const std::string offsets = fmt::format("data_offsets [{}, {}]", tensor.begin, tensor.end);
    if (tensor.end < tensor.begin) {
      throw Error(Errc::kInvalidOffset, offsets + " end before they begin", place);
    }
    if (tensor.begin != covered) {
      const std::string neighbour =
          previous ? fmt::format("tensor \"{}\", which ends at {}", previous->name, covered)
                   : "the start of the data";
      const char* fault = tensor.begin < covered ? "overlap" : "leave a hole after";
      throw Error(Errc::kInvalidOffset, fmt::format("{} {} {}", offsets, fault, neighbour), place);
    }
    place.expected_bytes = bytes_of(tensor.shape, tensor.dtype, place);
    place.actual_bytes = tensor.end - tensor.begin;
    if (place.actual_bytes != place.expected_bytes) {
      throw Error(Errc::kTensorInvalidInfo,
                  fmt::format("{} does not fit {}", describe(tensor.shape, tensor.dtype), offsets), place);
    }
    previous = &tensor;
    covered = tensor.end;
  }
  if (covered != data_bytes) {
    throw Error(Errc::kIncompleteBuffer,
                covered > data_bytes
                    ? fmt::format("data truncated by {} bytes", covered - data_bytes)
                    : fmt::format("{} trailing bytes after the last tensor", data_bytes - covered),
                {.file = path, .expected_bytes = covered, .actual_bytes = data_bytes});
  }
}

void append_json_string(std::string& json, std::string_view text) {
  json += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      json += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    } else {
      json += c;
    }
  }
  json += '"';
}

}  // namespace

std::uint64_t parse_safetensors_prefix(std::span<const std::byte> first_bytes, std::uint64_t file_bytes,
                                       const std::string& path) {
  if (file_bytes < kSafetensorsPrefixBytes) {
    throw Error(Errc::kHeaderTooSmall, "too small for a safetensors header",
                {.file = path, .expected_bytes = kSafetensorsPrefixBytes, .actual_bytes = file_bytes});
  }
  if (first_bytes.size() < kSafetensorsPrefixBytes) {
    throw Error(Errc::kInvalidArgument, "the header's length was not given",
                {.file = path,
                 .expected_bytes = kSafetensorsPrefixBytes,
                 .actual_bytes = std::uint64_t{first_bytes.size()}});
  }
  std::uint64_t header_bytes = 0;
  for (std::size_t i = kSafetensorsPrefixBytes; i-- > 0;) {
    header_bytes = header_bytes << 8 | std::to_integer<std::uint64_t>(first_bytes[i]);
  }
  if (header_bytes > kSafetensorsMaxHeaderBytes) {
    const bool is_json = first_bytes[0] == std::byte{'{'};
    throw Error(
        Errc::kHeaderTooLarge,
        is_json
            ? "is JSON and no safetensors file; where it is a sharded checkpoint's index, give its directory"
            : fmt::format("is no safetensors file, or damaged: a header of {} bytes, the format allows {}",
                          header_bytes, kSafetensorsMaxHeaderBytes),
        {.file = path});
  }
  if (kSafetensorsPrefixBytes + header_bytes > file_bytes) {
    throw Error(
        Errc::kHeaderTruncated, "file ends within its header",
        {.file = path, .expected_bytes = kSafetensorsPrefixBytes + header_bytes, .actual_bytes = file_bytes});
  }
  return header_bytes;
}

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> json, std::uint64_t file_bytes,
                                           const std::string& path) {
  const std::uint64_t data_start = kSafetensorsPrefixBytes + json.size();
  if (data_start > file_bytes) {
    throw Error(Errc::kHeaderTruncated, "file ends within its header",
                {.file = path, .expected_bytes = data_start, .actual_bytes = file_bytes});
  }
  if (json.empty() || json.front() != std::byte{'{'}) {
    throw Error(Errc::kInvalidHeader, "the header does not begin with '{'",
                {.file = path, .offset = kSafetensorsPrefixBytes});
  }

  SafetensorsHeader header{.entries = {}, .metadata = {}, .data_start = data_start};
  std::vector<DescribedTensor> tensors;
  JsonReader reader(json,
                    {.file = path, .errc = Errc::kInvalidHeader, .first_byte = kSafetensorsPrefixBytes});
  reader.read_object([&](const std::string& key, JsonReader::Value value) {
    if (key != "__metadata__") {
      reader.set_tensor(key);
      tensors.push_back(read_tensor(key, value));
      reader.set_tensor("");
    } else if (!value.is_null()) {
      value.read_object([&](const std::string& name, JsonReader::Value text) {
        header.metadata.emplace(name, text.string());
      });
    }
  });

  std::ranges::stable_sort(tensors, {},
                           [](const DescribedTensor& tensor) { return std::tie(tensor.begin, tensor.end); });
  check_tiling(tensors, file_bytes - data_start, path);

  header.entries.reserve(tensors.size());
  for (DescribedTensor& tensor : tensors) {
    header.entries.push_back({.name = std::move(tensor.name),
                              .dtype = tensor.dtype,
                              .shape = std::move(tensor.shape),
                              .offset = data_start + tensor.begin,
                              .bytes = tensor.end - tensor.begin});
  }
  return header;
}

std::vector<std::byte> format_safetensors_header(std::span<const SafetensorsEntry> entries,
                                                 const std::map<std::string, std::string>& metadata,
                                                 std::uint64_t skew) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [name, text] : metadata) {
      append_json_string(json, name);
      json += ':';
      append_json_string(json, text);
      json += ',';
    }
    json.back() = '}';
    json += ',';
  }
  std::uint64_t begin = 0;
  for (const SafetensorsEntry& entry : entries) {
    const std::uint64_t end = begin + bytes_of(entry.shape, entry.dtype, {.file = {}, .tensor = entry.name});
    append_json_string(json, entry.name);
    json += fmt::format(":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},",
                        name_of(entry.dtype), fmt::join(entry.shape, ","), begin, end);
    begin = end;
  }
  if (json.size() > 1) json.pop_back();
  json += '}';
  json.append((8 - json.size() % 8) % 8 + skew, ' ');

  std::vector<std::byte> header;
  header.reserve(kSafetensorsPrefixBytes + json.size());
  for (std::size_t i = 0; i < kSafetensorsPrefixBytes; ++i) {
    header.push_back(static_cast<std::byte>(std::uint64_t{json.size()} >> (8 * i)));
  }
  std::ranges::transform(json, std::back_inserter(header), [](char c) { return static_cast<std::byte>(c); });
  return header;
}

}  // namespace tierstream
