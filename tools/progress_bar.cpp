#include "tools/progress_bar.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace tierstream {
namespace {

constexpr auto kSilence = std::chrono::seconds(1);
constexpr auto kDrawingInterval = std::chrono::milliseconds(100);
constexpr std::size_t kDefaultColumns = 80;
constexpr std::size_t kMinBarColumns = 10;
constexpr std::size_t kMaxBarColumns = 40;

std::string format_clock(double seconds) {
  const auto whole = static_cast<std::uint64_t>(seconds + 0.5);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::size_t columns_of(std::FILE* terminal) {
  winsize size{};
  const bool known = ::ioctl(::fileno(terminal), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kDefaultColumns;
}

}  // namespace

std::string format_progress(const std::string& label, std::uint64_t done_bytes, std::uint64_t total_bytes,
                            double seconds, std::size_t columns) {
  const double done = static_cast<double>(std::min(done_bytes, total_bytes));
  const double share = total_bytes > 0 ? done / static_cast<double>(total_bytes) : 1;
  const double rate = seconds > 0 ? done / seconds : 0;
  const std::string left = rate > 0 ? format_clock((static_cast<double>(total_bytes) - done) / rate) : "?";
  const std::string numbers = fmt::format("{:3.0f} %  {:.2f} GB/s  {} left", share * 100, rate / 1e9, left);
  std::string line = label + "  ";
  const std::size_t taken = line.size() + numbers.size() + 4;  // brackets, two spaces
  if (columns >= taken + kMinBarColumns) {
    const std::size_t width = std::min(columns - taken, kMaxBarColumns);
    const auto filled = static_cast<std::size_t>(share * static_cast<double>(width));
    line += fmt::format("[{}{}]  ", std::string(filled, '='), std::string(width - filled, ' '));
  }
  line += numbers;
  return line.substr(0, columns);
}

ProgressBar::ProgressBar(std::string label, std::uint64_t total_bytes, std::FILE* terminal,
                         std::function<Clock::time_point()> now)
    : label_(std::move(label)),
      total_bytes_(total_bytes),
      terminal_(::isatty(::fileno(terminal)) == 1 ? terminal : nullptr),
      now_(std::move(now)),
      begin_(now_()),
      next_drawing_(begin_ + kSilence) {}

ProgressBar::~ProgressBar() {
  if (!drawn_) return;
  std::fputs("\r\033[K", terminal_);
  std::fflush(terminal_);
}

void ProgressBar::update(std::uint64_t done_bytes) {
  if (terminal_ == nullptr) return;
  const Clock::time_point now = now_();
  if (now < next_drawing_) return;
  next_drawing_ = now + kDrawingInterval;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  // One column less than there are: a full line would wrap on some terminals.
  const std::string line =
      format_progress(label_, done_bytes, total_bytes_, seconds, columns_of(terminal_) - 1);
  std::fprintf(terminal_, "\r%s\033[K", line.c_str());
  std::fflush(terminal_);
  drawn_ = true;
}

void JobBar::update(const std::string& job, std::uint64_t done_bytes, std::uint64_t total_bytes) {
  if (job != job_) {
    job_ = job;
    bar_.reset();  // wipes its line before the next one begins
    bar_.emplace(job, total_bytes);
  }
  bar_->update(done_bytes);
}

}  // namespace tierstream
