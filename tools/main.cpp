// The `tierstream` command. Exit codes: 0 done; 1 `run --verify` found a difference; 2 wrong input, option or
// environment; 130 stopped by Ctrl-C or SIGTERM.
#include <fmt/format.h>
#include <tierstream/io/error.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "tools/commands.h"
#include "tools/cut_file_handler.h"
#include "tools/standard_output.h"

namespace tierstream {
namespace {

constexpr int kDiffers = 1;
constexpr int kFailed = 2;
constexpr int kInterrupted = 130;

int fail(int exit_code, const std::string& line) {
  std::fprintf(stderr, "tierstream: %s\n", line.c_str());
  return exit_code;
}

/// Where a command is missing, CLI11 says only that, whatever stands in its place.
std::string missing_command(const CLI::App& program) {
  std::string names;
  for (const CLI::App* command : program.get_subcommands(/*filter=*/{})) {
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  const std::vector<std::string> words = program.remaining();
  if (words.empty()) return "a command is missing; the commands are " + names;
  const char* const kind = words.front().starts_with('-') ? "option" : "command";
  return fmt::format("there is no {} \"{}\"; the commands are {}", kind, words.front(), names);
}

/// The user's own words come back in it, so it goes through Error, which keeps it on one line.
std::string usage_error(const CLI::App& program, const CLI::ParseError& error) {
  std::string command = "tierstream";
  for (const CLI::App* subcommand : program.get_subcommands()) command += " " + subcommand->get_name();
  const bool lacks_command = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr ||
                             dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  const std::string what =
      program.get_subcommands().empty() && lacks_command ? missing_command(program) : error.what();
  return Error(Errc::kInvalidArgument, what + "; see " + command + " --help").what();
}

int run_program(int argc, char** argv) {
  install_cut_file_handler();
  CLI::App program("Streams neural-network weights from disk to a device, within memory budgets.",
                   "tierstream");
  program.set_version_flag("--version", "tierstream " TIERSTREAM_VERSION, "Print the version and exit");
  program.set_help_flag("-h,--help", "Print this help and exit");
  program.require_subcommand(1);
  add_synth(program);
  add_inspect(program);
  add_plan(program);
  add_run(program);
  add_probe(program);
  try {
    program.parse(argc, argv);
    finish_standard_output();
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help, --version
    return fail(kFailed, usage_error(program, error));
  } catch (const Error& error) {
    if (error.errc() == Errc::kCancelled) return fail(kInterrupted, "interrupted");
    return fail(error.errc() == Errc::kWeightMismatch ? kDiffers : kFailed, error.what());
  } catch (const std::bad_alloc&) {
    return fail(kFailed, "out of memory");
  } catch (const std::exception& error) {
    return fail(kFailed, error.what());
  }
}

}  // namespace
}  // namespace tierstream

int main(int argc, char** argv) { return tierstream::run_program(argc, argv); }
