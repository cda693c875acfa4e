// Runs the simulation over many seeds, or replays one:
//   tierstream_simulation [--seeds N] [--first N]
//   tierstream_simulation --seed N

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <exception>

#include "simulation.h"

int main(int argc, char** argv) {
  std::uint64_t first = 1;
  std::uint64_t seeds = 20'000;
  std::uint64_t seed = 0;
  CLI::App app("Drives the staging loop through seeded interleavings and checks what must hold");
  app.add_option("--first", first, "the first seed");
  app.add_option("--seeds", seeds, "how many seeds from there on");
  const CLI::Option* replay = app.add_option("--seed", seed, "replay this one alone");
  CLI11_PARSE(app, argc, argv);
  if (*replay) {
    first = seed;
    seeds = 1;
  }

  tierstream::simulation::Outcome sum;
  for (std::uint64_t s = first; s < first + seeds; ++s) {
    try {
      const auto outcome = tierstream::simulation::simulate(s);
      sum.leases += outcome.leases;
      sum.tensors_checked += outcome.tensors_checked;
      sum.read_errors += outcome.read_errors;
      sum.too_many_leases += outcome.too_many_leases;
      sum.device_failures += outcome.device_failures;
      sum.budget_changes += outcome.budget_changes;
      sum.residents_kept += outcome.residents_kept;
      sum.poisoned_slots += outcome.poisoned_slots;
    } catch (const std::exception& error) {
      fmt::print(stderr, "seed {}: {}\n", s, error.what());
      return 1;
    }
  }
  fmt::print(
      "{} seeds: {} leases, {} tensors checked, {} read errors, {} refused leases, {} device failures, "
      "{} changes of the budget that kept {} tensors resident, {} slots poisoned\n",
      seeds, sum.leases, sum.tensors_checked, sum.read_errors, sum.too_many_leases, sum.device_failures,
      sum.budget_changes, sum.residents_kept, sum.poisoned_slots);
  return 0;
}
