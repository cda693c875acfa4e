#pragma once

#include <CLI/CLI.hpp>

namespace tierstream {

// One subcommand each, in the file of its name. It runs while `program` parses the command line.
// Errors: Error; usage errors are CLI::ParseError.

/// `tierstream synth`: writes a checkpoint whose contents follow from a seed.
void add_synth(CLI::App& program);

/// `tierstream inspect`: lists what a checkpoint consists of.
void add_inspect(CLI::App& program);

/// `tierstream plan`: which bytes of a checkpoint live where, and what a pass takes.
void add_plan(CLI::App& program);

/// `tierstream probe`: measures the links of this machine.
void add_probe(CLI::App& program);

/// `tierstream run`: streams a checkpoint's layers and reports.
void add_run(CLI::App& program);

}  // namespace tierstream
