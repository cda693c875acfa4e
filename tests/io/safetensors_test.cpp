#include <gtest/gtest.h>
#include <tierstream/io/error.h>
#include <tierstream/io/safetensors.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "support/checkpoint_files.h"
#include "support/thrown.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kMaxU64 = ~std::uint64_t{0};

SafetensorsHeader parse(std::span<const std::byte> file) {
  const std::uint64_t header_bytes =
      parse_safetensors_prefix(file.first(std::min<std::size_t>(8, file.size())), file.size(), "m");
  return parse_safetensors_header(file.subspan(8, header_bytes), file.size(), "m");
}

SafetensorsHeader parse(std::string_view json, std::uint64_t data_bytes) {
  return parse(raw_safetensors(json, data_bytes));
}

Thrown refusal(std::span<const std::byte> file) {
  return thrown_by([&] { parse(file); });
}

Thrown refusal(std::string_view json, std::uint64_t data_bytes) {
  return refusal(raw_safetensors(json, data_bytes));
}

std::vector<std::byte> prefix_of(std::uint64_t header_bytes) {
  std::vector<std::byte> prefix;
  for (int i = 0; i < 8; ++i) prefix.push_back(static_cast<std::byte>(header_bytes >> (8 * i)));
  return prefix;
}

/// A header of one tensor "a".
std::string one(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return std::string(R"({"a":{"dtype":")")
             .append(dtype)
             .append(R"(","shape":)")
             .append(shape)
             .append(R"(,"data_offsets":)") +
         std::string(offsets) + "}}";
}

std::vector<DType> all_dtypes() {
  std::vector<DType> dtypes;
  for (int i = 0; i <= static_cast<int>(DType::kU64); ++i) dtypes.push_back(static_cast<DType>(i));
  return dtypes;
}

TEST(DType, IsFoundByItsName) {
  std::set<std::string_view> names;
  for (const DType dtype : all_dtypes()) {
    EXPECT_EQ(parse_dtype(name_of(dtype)), dtype);
    EXPECT_TRUE(names.insert(name_of(dtype)).second) << name_of(dtype);
  }
  EXPECT_EQ(names.size(), 22U);
  EXPECT_EQ(parse_dtype("f32"), std::nullopt);
  EXPECT_EQ(parse_dtype(""), std::nullopt);
}

TEST(DType, TellsSubByteTypesByTheirBits) {
  EXPECT_EQ(bits_per_element(DType::kF4), 4U);
  EXPECT_EQ(bits_per_element(DType::kF6E3M2), 6U);
  EXPECT_EQ(bits_per_element(DType::kBool), 8U);
  EXPECT_EQ(bits_per_element(DType::kBF16), 16U);
  EXPECT_EQ(bits_per_element(DType::kC64), 64U);
}

TEST(Safetensors, DescribesEachTensorInFileOrder) {
  const SafetensorsHeader header = parse(
      R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
      7);
  ASSERT_EQ(header.entries.size(), 2U);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].dtype, DType::kF32);
  EXPECT_EQ(header.entries[0].shape, std::vector<std::int64_t>{});
  EXPECT_EQ(header.entries[0].offset, header.data_start);
  EXPECT_EQ(header.entries[0].bytes, 4U);
  EXPECT_EQ(header.entries[1].name, "b");
  EXPECT_EQ(header.entries[1].shape, std::vector<std::int64_t>{3});
  EXPECT_EQ(header.entries[1].offset, header.data_start + 4);
  EXPECT_EQ(header.entries[1].bytes, 3U);
}

TEST(Safetensors, RefusesAFileWithoutRoomForALength) {
  EXPECT_EQ(refusal({}), (Thrown{Errc::kHeaderTooSmall,
                                 "m: too small for a safetensors header: expected 8 bytes, found 0"}));
  EXPECT_EQ(
      refusal(std::vector<std::byte>(7)),
      (Thrown{Errc::kHeaderTooSmall, "m: too small for a safetensors header: expected 8 bytes, found 7"}));
}

TEST(Safetensors, RefusesAHeaderBeyondTheFormatsLimitEvenInAFileOfThatSize) {
  EXPECT_EQ(thrown_by([] { parse_safetensors_prefix(prefix_of(100'000'001), kMaxU64, "m"); }),
            (Thrown{Errc::kHeaderTooLarge,
                    "m: is no safetensors file, or damaged: a header of 100000001 bytes, the format allows "
                    "100000000"}));
  EXPECT_EQ(thrown_by([] { parse_safetensors_prefix(prefix_of(kMaxU64), kMaxU64, "m"); }),
            (Thrown{Errc::kHeaderTooLarge,
                    "m: is no safetensors file, or damaged: a header of 18446744073709551615 bytes, the "
                    "format allows 100000000"}));
  constexpr std::uint64_t kJson = 0x746867696577227b;  // {"weight
  EXPECT_EQ(thrown_by([] { parse_safetensors_prefix(prefix_of(kJson), kMaxU64, "m"); }),
            (Thrown{Errc::kHeaderTooLarge,
                    "m: is JSON and no safetensors file; where it is a sharded checkpoint's index, give its "
                    "directory"}));
  EXPECT_EQ(parse_safetensors_prefix(prefix_of(100'000'000), 100'000'008, "m"), 100'000'000U);
}

TEST(Safetensors, RefusesAFileThatEndsWithinItsHeader) {
  const Thrown truncated{Errc::kHeaderTruncated,
                         "m: file ends within its header: expected 108 bytes, found 107"};
  EXPECT_EQ(thrown_by([] { parse_safetensors_prefix(prefix_of(100), 107, "m"); }), truncated);
  EXPECT_EQ(thrown_by([] { parse_safetensors_header(std::vector<std::byte>(100), 107, "m"); }), truncated);
}

TEST(Safetensors, RefusesToGuessALengthThatItWasNotGiven) {
  EXPECT_EQ(
      thrown_by([] { parse_safetensors_prefix({}, 8, "m"); }),
      (Thrown{Errc::kInvalidArgument, "m: the header's length was not given: expected 8 bytes, found 0"}));
}

TEST(Safetensors, NamesTheByteWhereTheJsonIsWrong) {
  const std::string a = R"("a":{"dtype":"U8","shape":[],"data_offsets":[0,1]})";
  const std::pair<std::string, std::string> cases[] = {
      {"", "m: the header does not begin with '{' at byte 8"},
      {" {}", "m: the header does not begin with '{' at byte 8"},
      {"[]", "m: the header does not begin with '{' at byte 8"},
      {"{\"\xff\":{}}", "m: not UTF-8 at byte 10"},
      {"{\"\xe4\xbd\":{}}", "m: not UTF-8 at byte 10"},
      {"{\"a\x01\":{}}", "m: invalid JSON (a control character in a string) at byte 11"},
      {"{\"a", "m: invalid JSON (a string without an end) at byte 9"},
      {R"({"\ud800":{}})", "m: invalid JSON (an escape in a string) at byte 9"},
      {R"({"\q":{}})", "m: invalid JSON (an escape in a string) at byte 9"},
      {R"({"__metadata__":{"k":"\q"}})", "m: invalid JSON (an escape in a string) at byte 29"},
      {"{" + a, "m: invalid JSON at byte 59"},
      {"{" + a + ",}", "m: invalid JSON at byte 60"},
      {"{" + a + "} x", "m: invalid JSON (it does not end with its closing brace) at byte 62"},
      {"{" + a + "}}", "m: text after the end of the JSON at byte 60"},
      {"{" + a + R"( "b":1})", "m: invalid JSON at byte 60"},
      {R"({"a" 1})", "m: invalid JSON at byte 13"},
      {R"({a:1})", "m: invalid JSON at byte 9"},
      {R"({"a":1})", "m: tensor \"a\": expected an object at byte 13"},
      {R"({"a":{"dtype":5}})", "m: tensor \"a\": expected a string at byte 22"},
      {R"({"a":{"shape":{}}})", "m: tensor \"a\": expected an array at byte 22"},
      {R"({"a":{"shape":[1.0]}})", "m: tensor \"a\": expected an unsigned integer at byte 23"},
      {R"({"a":{"shape":[-1]}})", "m: tensor \"a\": expected an unsigned integer at byte 23"},
      {R"({"a":{"shape":[01]}})", "m: tensor \"a\": expected an unsigned integer at byte 23"},
      {R"({"a":{"shape":[1,]}})", "m: tensor \"a\": expected an unsigned integer at byte 25"},
      {R"({"a":{"data_offsets":[0]}})", "m: tensor \"a\": expected 2 data_offsets, found 1 at byte 29"},
      {R"({"a":{"data_offsets":[0,1,2]}})", "m: tensor \"a\": expected 2 data_offsets, found 3 at byte 29"},
      {R"({"a":{"dtype":"U8","shape":[]}})", "m: tensor \"a\": no data_offsets at byte 13"},
      {R"({"a":{"x":tru}})", "m: tensor \"a\": expected a boolean at byte 18"},
      {R"({"a":{"x":nul}})", "m: tensor \"a\": expected null at byte 18"},
      {R"({"a":{"x":1.}})", "m: tensor \"a\": invalid JSON (a number) at byte 18"},
      {R"({"__metadata__":{"k":1}})", "m: expected a string at byte 29"},
  };
  for (const auto& [json, message] : cases) {
    EXPECT_EQ(refusal(json, 1), (Thrown{Errc::kInvalidHeader, message})) << json;
  }
}

TEST(Safetensors, RefusesNestingBeyondTheReferencesLimit) {
  const auto nested = [](std::size_t depth) {
    return R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"x":)" + std::string(depth, '[') +
           std::string(depth, ']') + "}}";
  };
  EXPECT_EQ(parse(nested(125), 1).entries.size(), 1U);
  EXPECT_EQ(refusal(nested(126), 1),
            (Thrown{Errc::kInvalidHeader, "m: tensor \"a\": nested too deeply at byte 188"}));
}

TEST(Safetensors, RefusesDuplicateKeysAtEveryLevelThoughTheReferenceTakesTheLast) {
  const std::string a = R"("a":{"dtype":"U8","shape":[],"data_offsets":[0,1]})";
  EXPECT_EQ(refusal("{" + a + "," + a + "}", 1),
            (Thrown{Errc::kInvalidHeader, "m: duplicate key \"a\" at byte 60"}));
  EXPECT_EQ(refusal(R"({"__metadata__":{"k":"1","k":"2"}})", 0),
            (Thrown{Errc::kInvalidHeader, "m: duplicate key \"k\" at byte 33"}));
  EXPECT_EQ(refusal(R"({"a":{"x":1,"\u0078":2}})", 0),
            (Thrown{Errc::kInvalidHeader, "m: tensor \"a\": duplicate key \"x\" at byte 20"}));
}

TEST(Safetensors, RefusesHolesAndOverlapsNamingBothTensors) {
  const auto two = [](std::string_view offsets) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
           R"("b":{"dtype":"U8","shape":[4],"data_offsets":)" +
           std::string(offsets) + "}}";
  };
  EXPECT_EQ(refusal(two("[3,7]"), 8),
            (Thrown{Errc::kInvalidOffset,
                    "m: tensor \"b\": data_offsets [3, 7] overlap tensor \"a\", which ends at 4"}));
  EXPECT_EQ(
      refusal(two("[5,9]"), 9),
      (Thrown{Errc::kInvalidOffset,
              "m: tensor \"b\": data_offsets [5, 9] leave a hole after tensor \"a\", which ends at 4"}));
  EXPECT_EQ(refusal(two("[8,4]"), 8),
            (Thrown{Errc::kInvalidOffset, "m: tensor \"b\": data_offsets [8, 4] end before they begin"}));
  EXPECT_EQ(refusal(one("U8", "[4]", "[1,5]"), 5),
            (Thrown{Errc::kInvalidOffset,
                    "m: tensor \"a\": data_offsets [1, 5] leave a hole after the start of the data"}));
}

TEST(Safetensors, RefusesATensorThatDoesNotFitItsPlace) {
  EXPECT_EQ(
      refusal(one("F32", "[2,3]", "[0,20]"), 20),
      (Thrown{Errc::kTensorInvalidInfo,
              "m: tensor \"a\": 2x3 F32 does not fit data_offsets [0, 20]: expected 24 bytes, found 20"}));
  EXPECT_EQ(
      refusal(one("F32", "[]", "[0,20]"), 20),
      (Thrown{Errc::kTensorInvalidInfo,
              "m: tensor \"a\": scalar F32 does not fit data_offsets [0, 20]: expected 4 bytes, found 20"}));
}

TEST(Safetensors, RefusesSizesThatOverflow) {
  EXPECT_EQ(
      refusal(one("U8", "[4294967296,4294967296]", "[0,0]"), 0),
      (Thrown{Errc::kTensorInvalidInfo, "m: tensor \"a\": 4294967296x4294967296 U8 overflows 64 bits"}));
  EXPECT_EQ(refusal(one("F64", "[1152921504606846976]", "[0,0]"), 0),
            (Thrown{Errc::kTensorInvalidInfo, "m: tensor \"a\": 1152921504606846976 F64 overflows 64 bits"}));
  EXPECT_EQ(
      refusal(one("U8", "[9223372036854775807,4,0]", "[0,0]"), 0),
      (Thrown{Errc::kTensorInvalidInfo, "m: tensor \"a\": 9223372036854775807x4x0 U8 overflows 64 bits"}));
  EXPECT_EQ(refusal(one("U8", "[0,9223372036854775808]", "[0,0]"), 0),
            (Thrown{Errc::kTensorInvalidInfo,
                    "m: tensor \"a\": dimension 9223372036854775808 is too large at byte 38"}));
  EXPECT_EQ(parse(one("U8", "[0,9223372036854775807,4]", "[0,0]"), 0).entries[0].bytes, 0U);
}

TEST(Safetensors, RefusesSubByteTensorsThatDoNotFillTheirLastByte) {
  EXPECT_EQ(refusal(one("F4", "[7]", "[0,4]"), 4),
            (Thrown{Errc::kMisalignedSlice, "m: tensor \"a\": 7 F4 takes 28 bits, not whole bytes"}));
  EXPECT_EQ(refusal(one("F6_E2M3", "[2]", "[0,2]"), 2),
            (Thrown{Errc::kMisalignedSlice, "m: tensor \"a\": 2 F6_E2M3 takes 12 bits, not whole bytes"}));
  EXPECT_EQ(parse(one("F4", "[7,2]", "[0,7]"), 7).entries[0].bytes, 7U);
  EXPECT_EQ(parse(one("F6_E3M2", "[4]", "[0,3]"), 3).entries[0].bytes, 3U);
}

TEST(Safetensors, RefusesTheWholeFileForAnUnknownDType) {
  EXPECT_EQ(refusal(one("F128", "[]", "[0,16]"), 16),
            (Thrown{Errc::kUnknownDType, "m: tensor \"a\": unknown dtype \"F128\" at byte 22"}));
}

TEST(Safetensors, TellsATruncatedFileFromOneWithTrailingBytes) {
  const std::string json = one("U8", "[8]", "[0,8]");
  EXPECT_EQ(refusal(json, 5),
            (Thrown{Errc::kIncompleteBuffer, "m: data truncated by 3 bytes: expected 8 bytes, found 5"}));
  EXPECT_EQ(refusal(json, 10),
            (Thrown{Errc::kIncompleteBuffer,
                    "m: 2 trailing bytes after the last tensor: expected 8 bytes, found 10"}));
  EXPECT_EQ(refusal("{}", 1),
            (Thrown{Errc::kIncompleteBuffer,
                    "m: 1 trailing bytes after the last tensor: expected 0 bytes, found 1"}));
}

TEST(Safetensors, AcceptsNothingScalarsAndDimensionsOfZero) {
  EXPECT_TRUE(parse("{}", 0).entries.empty());
  EXPECT_EQ(parse(one("F32", "[]", "[0,4]"), 4).entries[0].bytes, 4U);
  const SafetensorsHeader header = parse(
      R"({"z":{"dtype":"F32","shape":[2,0],"data_offsets":[4,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("y":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
      4);
  ASSERT_EQ(header.entries.size(), 3U);
  EXPECT_EQ(header.entries[0].name, "y");
  EXPECT_EQ(header.entries[2].name, "z");
}

TEST(Safetensors, AcceptsPaddingUnknownFieldsAndNoMetadata) {
  EXPECT_EQ(parse("{}  \n\t ", 0).entries.size(), 0U);
  EXPECT_EQ(parse(R"({"__metadata__":null})", 0).metadata.size(), 0U);
  EXPECT_EQ(
      parse(R"({"a":{"dtype":"U8","x":[1,{"y":[null,true,-1.5e3,"\n"]}],"shape":[],"data_offsets":[0,1]}})",
            1)
          .entries.size(),
      1U);
}

TEST(Safetensors, ReadsMetadataAndEscapedNames) {
  const SafetensorsHeader header = parse(
      R"({"__metadata__":{"format":"pt","":"\ud83d\ude00"},"\u4f60\"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})",
      1);
  EXPECT_EQ(header.metadata,
            (std::map<std::string, std::string>{{"format", "pt"}, {"", "\xf0\x9f\x98\x80"}}));
  EXPECT_EQ(header.entries[0].name, "\xe4\xbd\xa0\"");
}

TEST(Safetensors, RefusesEveryProperPrefixOfAFile) {
  const std::vector<std::byte> file =
      golden_safetensors({{"a"}, {"b", DType::kBF16, {3}}, {"c", DType::kU8, {}}}, {{"format", "pt"}});
  EXPECT_EQ(parse(file).entries.size(), 3U);
  for (std::size_t bytes = 0; bytes < file.size(); ++bytes) {
    const Thrown thrown = refusal(std::span(file).first(bytes));
    EXPECT_TRUE(thrown.errc == Errc::kHeaderTooSmall || thrown.errc == Errc::kHeaderTruncated ||
                thrown.errc == Errc::kIncompleteBuffer)
        << bytes << " of " << file.size() << " bytes: " << thrown;
  }
}

TEST(Safetensors, StartsTheDataWhereItWasAskedTo) {
  const std::vector<SafetensorsEntry> entries = {{"a", DType::kU8, {}, 0, 0}};
  for (std::uint64_t skew = 0; skew < 8; ++skew) {
    EXPECT_EQ(format_safetensors_header(entries, {}, skew).size() % 8, skew);
  }
}

TEST(Safetensors, WritesOnlySizesThatCanBeRead) {
  const std::vector<SafetensorsEntry> entries = {{"a", DType::kF4, {3}, 0, 0}};
  EXPECT_EQ(thrown_by([&] { format_safetensors_header(entries, {}); }),
            (Thrown{Errc::kMisalignedSlice, "tensor \"a\": 3 F4 takes 12 bits, not whole bytes"}));
}

/// Random valid contents of a file.
class RandomHeader {
 public:
  explicit RandomHeader(std::uint32_t seed) : random_(seed) {}

  std::vector<GoldenTensor> tensors() {
    std::vector<GoldenTensor> tensors;
    for (std::size_t i = below(5); i > 0; --i) {
      GoldenTensor tensor{.name = text() + std::to_string(i), .dtype = all_dtypes()[below(22)], .shape = {}};
      for (std::size_t rank = below(4); rank > 0; --rank) {
        tensor.shape.push_back(static_cast<std::int64_t>(below(5)));
      }
      if (bits_per_element(tensor.dtype) < 8) tensor.shape.push_back(4);
      tensors.push_back(std::move(tensor));
    }
    return tensors;
  }
  std::map<std::string, std::string> metadata() {
    std::map<std::string, std::string> metadata;
    for (std::size_t i = below(3); i > 0; --i) metadata[text()] = text();
    return metadata;
  }
  std::size_t below(std::size_t bound) { return random_() % bound; }

 private:
  std::string text() {
    static constexpr std::string_view kPieces[] = {"a",
                                                   ".0.",
                                                   "\"",
                                                   "\\",
                                                   "\n",
                                                   "\x01",
                                                   "\x7f",
                                                   "/",
                                                   "\xc3\xa9",
                                                   "\xf0\x9f\x98\x80",
                                                   " ",
                                                   "{",
                                                   std::string_view("\0", 1)};
    std::string text;
    for (std::size_t i = below(4); i > 0; --i) text += kPieces[below(std::size(kPieces))];
    return text;
  }

  std::mt19937 random_;
};

TEST(Safetensors, ReadsBackWhatItWrote) {
  RandomHeader random(1);
  for (int round = 0; round < 2000; ++round) {
    const std::vector<GoldenTensor> tensors = random.tensors();
    const std::map<std::string, std::string> metadata = random.metadata();
    const SafetensorsHeader header = parse(golden_safetensors(tensors, metadata, random.below(8)));
    EXPECT_EQ(header.metadata, metadata);
    ASSERT_EQ(header.entries.size(), tensors.size());
    std::uint64_t offset = header.data_start;
    for (const GoldenTensor& tensor : tensors) {
      const auto entry = std::ranges::find(header.entries, tensor.name, &SafetensorsEntry::name);
      ASSERT_NE(entry, header.entries.end()) << tensor.name;
      EXPECT_EQ(entry->dtype, tensor.dtype);
      EXPECT_EQ(entry->shape, tensor.shape);
      EXPECT_EQ(entry->offset, offset);
      EXPECT_EQ(entry->bytes, tensor.bytes());
      offset += tensor.bytes();
    }
  }
}

TEST(Safetensors, ReadsOrRefusesWhateverItIsGiven) {
  static constexpr std::string_view kTokens[] = {"\"",   "{",  "}",       "[",    "]",
                                                 ",",    ":",  "0",       "-",    "1e9",
                                                 "null", "\\", "\\ud800", "\xff", "18446744073709551615",
                                                 "F4",   " "};
  RandomHeader random(2);
  int read = 0;
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    const std::vector<std::byte> valid = golden_safetensors(random.tensors(), random.metadata());
    std::string file(reinterpret_cast<const char*>(valid.data()), valid.size());
    const std::size_t header_end = 8 + static_cast<unsigned char>(file[0]);
    for (std::size_t edits = 1 + random.below(3); edits > 0; --edits) {
      const std::size_t at = random.below(std::min(header_end, file.size()));
      switch (random.below(3)) {
        case 0:
          file[at] = static_cast<char>(random.below(256));
          break;
        case 1: {
          const std::string_view token = kTokens[random.below(std::size(kTokens))];
          file.replace(at, std::min(token.size(), file.size() - at), token);
          break;
        }
        default:
          std::swap(file[at], file[random.below(file.size())]);
      }
    }
    try {
      const SafetensorsHeader header = parse(bytes_of_text(file));
      std::uint64_t end = header.data_start;
      for (const SafetensorsEntry& entry : header.entries) {
        ASSERT_EQ(entry.offset, end);
        end += entry.bytes;
      }
      ASSERT_EQ(end, file.size());
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(read, 100) << "the mutations break everything";
  EXPECT_GT(refused, 1000) << "the mutations break nothing";
}

}  // namespace
}  // namespace tierstream
