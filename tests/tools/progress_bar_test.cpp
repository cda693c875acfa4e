#include "tools/progress_bar.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <memory>

namespace tierstream {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

/// Both ends of a terminal of its own: what is printed on `file` can be read back.
class PseudoTerminal {
 public:
  PseudoTerminal() : reader_(::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK)) {
    ::grantpt(reader_);
    ::unlockpt(reader_);
    file_.reset(std::fopen(::ptsname(reader_), "w"));
  }
  PseudoTerminal(const PseudoTerminal&) = delete;
  PseudoTerminal& operator=(const PseudoTerminal&) = delete;
  ~PseudoTerminal() { ::close(reader_); }

  std::FILE* file() const { return file_.get(); }
  std::string text() const {
    std::array<char, 4096> buffer{};
    const ssize_t count = ::read(reader_, buffer.data(), buffer.size());
    return std::string(buffer.data(), count > 0 ? static_cast<std::size_t>(count) : 0);
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  int reader_;
  std::unique_ptr<std::FILE, Close> file_;
};

TEST(ProgressBar, ShowsShareRateAndTimeLeft) {
  EXPECT_EQ(format_progress("pass 1", 3'000'000'000, 12'000'000'000, 2.0, 80),
            "pass 1  [==========                              ]   25 %  1.50 GB/s  0:06 left");
}

TEST(ProgressBar, FitsAnyWidth) {
  for (std::size_t columns = 1; columns < 100; ++columns) {
    EXPECT_LE(format_progress("writing", 1u << 30, 1u << 31, 3.0, columns).size(), columns);
  }
}

TEST(ProgressBar, SurvivesNothingDoneAndNothingToDo) {
  EXPECT_THAT(format_progress("x", 0, 100, 0, 80), HasSubstr("0 %  0.00 GB/s  ? left"));
  EXPECT_THAT(format_progress("x", 0, 0, 0, 80), HasSubstr("100 %"));
}

TEST(ProgressBar, DrawsAfterASecondAndWipesItselfAtTheEnd) {
  const PseudoTerminal terminal;
  ProgressBar::Clock::time_point now{};
  {
    ProgressBar bar("writing", 100, terminal.file(), [&] { return now; });
    now += 999ms;
    bar.update(10);
    EXPECT_EQ(terminal.text(), "");
    now += 2ms;
    bar.update(50);
    EXPECT_THAT(terminal.text(), StartsWith("\rwriting  ["));
    now += 50ms;
    bar.update(60);
    EXPECT_EQ(terminal.text(), "") << "at most ten drawings a second";
  }
  EXPECT_EQ(terminal.text(), "\r\033[K");
}

TEST(ProgressBar, IsSilentWhereThereIsNoTerminal) {
  std::FILE* file = std::tmpfile();
  ProgressBar::Clock::time_point now{};
  {
    ProgressBar bar("writing", 100, file, [&] { return now; });
    now += 10s;
    bar.update(50);
  }
  EXPECT_EQ(std::ftell(file), 0);
  std::fclose(file);
}

}  // namespace
}  // namespace tierstream
