#include "command.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <stdexcept>

extern char** environ;

namespace tierstream {
namespace {

constexpr std::chrono::milliseconds kPatience{300'000};

std::string read_all(int file) {
  std::string text(static_cast<std::size_t>(::lseek(file, 0, SEEK_END)), '\0');
  const ssize_t count = ::pread(file, text.data(), text.size(), 0);
  text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return text;
}

std::vector<std::string> command_line(const std::vector<std::string>& arguments, const std::string& cgroup,
                                      const std::string& program) {
  std::vector<std::string> words;
  if (!cgroup.empty()) {
    words = {"/bin/sh", "-c", "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"", "sh", cgroup};
  }
  words.push_back(program);
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

}  // namespace

Command::Command(const std::vector<std::string>& arguments, const std::string& cgroup,
                 const std::string& program) {
  std::array<int, 2> out{};
  if (::pipe2(out.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
  out_ = out[0];
  err_ = ::memfd_create("stderr", MFD_CLOEXEC);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, err_, STDERR_FILENO);

  std::vector<std::string> words = command_line(arguments, cgroup, program);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int error = ::posix_spawn(&process_, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(out[1]);
  if (error != 0) throw std::runtime_error("cannot start " + words[0]);
}

Command::~Command() {
  if (process_ > 0) {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  ::close(out_);
  ::close(err_);
}

bool Command::read_more() {
  std::array<char, 4096> buffer{};
  pollfd readable{.fd = out_, .events = POLLIN, .revents = 0};
  if (::poll(&readable, 1, static_cast<int>(kPatience.count())) <= 0) return false;
  const ssize_t count = ::read(out_, buffer.data(), buffer.size());
  if (count > 0) out_text_.append(buffer.data(), static_cast<std::size_t>(count));
  return count > 0;
}

bool Command::wait_for_line(const std::string& prefix) {
  do {
    const std::size_t found = ("\n" + out_text_).find("\n" + prefix);
    if (found != std::string::npos && out_text_.find('\n', found) != std::string::npos) return true;
  } while (read_more());
  return false;
}

void Command::send(int signal) { ::kill(process_, signal); }

bool Command::ends_within(std::chrono::milliseconds patience) const {
  const int handle = static_cast<int>(::syscall(SYS_pidfd_open, process_, 0));
  if (handle < 0) return true;  // it cannot be waited for here: `finish` does
  pollfd ended{.fd = handle, .events = POLLIN, .revents = 0};
  const bool has_ended = ::poll(&ended, 1, static_cast<int>(patience.count())) > 0;
  ::close(handle);
  return has_ended;
}

CommandResult Command::finish() {
  while (read_more()) {
  }
  if (!ends_within(kPatience)) ::kill(process_, SIGKILL);
  int status = 0;
  ::waitpid(process_, &status, 0);
  process_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, out_text_, read_all(err_)};
}

CommandResult run_command(const std::vector<std::string>& arguments) { return Command(arguments).finish(); }

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::size_t columns_of(const std::string& text) {
  std::size_t columns = 0;
  for (const std::string& line : lines_of(text)) columns = std::max(columns, line.size());
  return columns;
}

std::vector<std::string> keys_of(const nlohmann::json& object) {
  std::vector<std::string> keys;
  for (const auto& item : object.items()) keys.push_back(item.key());
  return keys;
}

void expect_refusal(const CommandResult& result, const std::string& fragment) {
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, testing::StartsWith("tierstream: "));
  EXPECT_THAT(result.err, testing::EndsWith("\n"));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_THAT(result.err, testing::HasSubstr(fragment));
}

}  // namespace tierstream
