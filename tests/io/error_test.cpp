#include <gtest/gtest.h>
#include <tierstream/io/error.h>

#include <set>
#include <string>
#include <system_error>

namespace tierstream {
namespace {

TEST(Error, IsALineWithThePlaceInFrontAndTheCauseBehind) {
  const Error error(Errc::kReadFailed, "read failed",
                    {.file = "m.safetensors",
                     .tensor = "a.weight",
                     .offset = 4096,
                     .expected_bytes = 24,
                     .actual_bytes = 20,
                     .backend = "posix"},
                    std::make_error_code(std::errc::io_error));
  EXPECT_STREQ(error.what(),
               "m.safetensors: tensor \"a.weight\": read failed at byte 4096: expected 24 bytes, found 20: "
               "Input/output error [posix]");
}

TEST(Error, LeavesOutWhatIsNotKnown) {
  EXPECT_STREQ(Error(Errc::kClosed, "the streamer was closed").what(), "the streamer was closed");
  EXPECT_STREQ(Error(Errc::kBudgetTooSmall, "gpu budget", {.expected_bytes = 8}).what(),
               "gpu budget: expected 8 bytes");
  EXPECT_STREQ(Error(Errc::kFileChanged, "file changed", {.actual_bytes = 8}).what(),
               "file changed: found 8 bytes");
}

TEST(Error, StaysOnOneLineWhateverANameContains) {
  const Error error(Errc::kInvalidHeader, "refused", {.file = "m", .tensor = "a\nb\x1b[31m\x7f"});
  EXPECT_STREQ(error.what(), "m: tensor \"a\\x0ab\\x1b[31m\\x7f\": refused");
}

TEST(Error, EscapesControlsAlsoWhereUtf8NeedsTwoBytesForThem) {
  const Error error(Errc::kInvalidHeader, "refused",
                    {.file = "m", .tensor = "a\xc2\x9b\xc2\x80\xc2\xa0\xc3\x9f"});
  EXPECT_STREQ(error.what(), "m: tensor \"a\\xc2\\x9b\\xc2\\x80\xc2\xa0\xc3\x9f\": refused");
}

TEST(Error, KeepsCodePlaceAndCauseForPrograms) {
  const std::error_code cause = std::make_error_code(std::errc::permission_denied);
  const Error error(Errc::kOpenFailed, "cannot be opened", {.file = "m", .offset = 7}, cause);
  EXPECT_EQ(error.errc(), Errc::kOpenFailed);
  EXPECT_EQ(error.code(), Errc::kOpenFailed);
  EXPECT_EQ(&error.code().category(), &tierstream_category());
  EXPECT_EQ(error.place().file, "m");
  EXPECT_EQ(error.place().offset, 7U);
  EXPECT_EQ(error.cause(), std::errc::permission_denied);
}

TEST(Error, IsCaughtAsASystemError) { EXPECT_THROW(throw Error(Errc::kInternal, "x"), std::system_error); }

TEST(Errc, HasAMessageOfItsOwnForEachCode) {
  std::set<std::string> messages;
  for (int code = 1; code <= static_cast<int>(Errc::kInternal); ++code) {
    const std::string message = make_error_code(static_cast<Errc>(code)).message();
    EXPECT_NE(message, "unknown error") << code;
    EXPECT_TRUE(messages.insert(message).second) << message;
  }
  EXPECT_EQ(make_error_code(Errc{}).message(), "unknown error");
}

}  // namespace
}  // namespace tierstream
