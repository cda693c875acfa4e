#include "tools/cut_file_handler.h"

#include <tierstream/tiers/page_cache.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstddef>
#include <iterator>
#include <string_view>

namespace tierstream {
namespace {

constexpr int kExitCode = 2;

bool is_terminal = false;  // known before a signal comes
std::atomic_flag is_ending = ATOMIC_FLAG_INIT;

/// Of what is async-signal-safe: no allocation, no stdio.
class SignalLine {
 public:
  void add(char letter) noexcept {
    if (length_ < std::size(text_)) text_[length_++] = letter;
  }
  void add(std::string_view text) noexcept {
    for (const char letter : text) add(letter);
  }
  /// Control characters would break the line or command the terminal.
  void add_printable(std::string_view text) noexcept {
    for (const char letter : text) {
      add(static_cast<unsigned char>(letter) < ' ' || letter == '\x7f' ? '?' : letter);
    }
  }
  void write() const noexcept {
    [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text_, length_);
  }

 private:
  char text_[8192];  // a path has 4096
  std::size_t length_ = 0;
};

void on_bus_error(int signal, siginfo_t* info, void*) {
  const char* const path = mapped_file_at(info->si_addr);
  if (path == nullptr) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);  // comes when this handler returns
    return;
  }
  if (is_ending.test_and_set()) {  // several threads may touch the pages
    for (;;) ::pause();
  }
  SignalLine line;
  if (is_terminal) line.add("\r\033[K");  // there may be a progress bar
  line.add("tierstream: ");
  line.add_printable(path);
  line.add(": the file was cut while the page-cache tier keeps pages of it\n");
  line.write();
  ::_exit(kExitCode);
}

}  // namespace

void install_cut_file_handler() {
  is_terminal = ::isatty(STDERR_FILENO) == 1;
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace tierstream
