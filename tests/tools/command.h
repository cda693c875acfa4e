#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tierstream {

struct CommandResult {
  int exit_code;  ///< -1: ended by a signal, or by `Command::finish` because it took too long
  std::string out;
  std::string err;
};

/// What a program may need beside its budgets.
inline constexpr std::uint64_t kOverheadMiB = 32;

/// The built `tierstream` command (or another program) as a child process with its output in pipes.
class Command {
 public:
  /// With `cgroup`, a directory of the cgroup file system, the child enters that group before it begins.
  explicit Command(const std::vector<std::string>& arguments, const std::string& cgroup = {},
                   const std::string& program = TIERSTREAM_COMMAND);
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  ~Command();

  /// Waits for a line of standard output that begins with `prefix`; false: the output ended before.
  bool wait_for_line(const std::string& prefix);
  void send(int signal);
  pid_t process() const { return process_; }
  /// True: it has ended. Waits for that as long as `patience` says.
  bool ends_within(std::chrono::milliseconds patience) const;
  /// Waits for the end; kills what has not ended after half a minute.
  CommandResult finish();

 private:
  bool read_more();

  pid_t process_ = -1;
  int out_ = -1;
  int err_ = -1;
  std::string out_text_;
};

CommandResult run_command(const std::vector<std::string>& arguments);

std::vector<std::string> lines_of(const std::string& text);
/// Of the longest line.
std::size_t columns_of(const std::string& text);

std::vector<std::string> keys_of(const nlohmann::json& object);

/// Expects exit code 2, one line for people on standard error that holds `fragment`, and nothing on standard
/// output.
void expect_refusal(const CommandResult& result, const std::string& fragment);

}  // namespace tierstream
