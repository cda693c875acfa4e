#pragma once

#include <gmock/gmock.h>
#include <tierstream/io/error.h>

#include <ostream>
#include <string>
#include <utility>

namespace tierstream {

/// What an action threw, as a value that a test compares: both the code for programs and the line for people.
struct Thrown {
  Errc errc;
  std::string what;

  bool operator==(const Thrown&) const = default;
  friend std::ostream& operator<<(std::ostream& out, const Thrown& thrown) {
    return out << make_error_code(thrown.errc).message() << " | " << thrown.what;
  }
};

/// The Error that `action` throws. Other exceptions pass.
template <typename Action>
Thrown thrown_by(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.errc(), error.what()};
  }
  return {Errc{}, "nothing was thrown"};
}

/// Expects `action` to throw an Error of this code whose line matches.
template <typename Action>
void expect_throws(Errc errc, const ::testing::Matcher<const std::string&>& line, Action&& action) {
  const Thrown thrown = thrown_by(std::forward<Action>(action));
  EXPECT_EQ(thrown.errc, errc) << thrown;
  EXPECT_THAT(thrown.what, line);
}

}  // namespace tierstream
