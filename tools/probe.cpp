#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "tools/commands.h"
#include "tools/device_choice.h"
#include "tools/interrupt.h"
#include "tools/json_text.h"
#include "tools/link_probe.h"
#include "tools/machine_limits.h"
#include "tools/number_range.h"
#include "tools/probe_file.h"
#include "tools/probe_report.h"
#include "tools/progress_bar.h"

namespace tierstream {
namespace {

constexpr std::uint64_t kMinFileBytes = 16u << 20;  // 16 threads read 1 MiB each

struct ProbeArguments {
  std::string directory = ".";
  std::string bytes = "1GiB";
  std::string device;
  unsigned rounds = LinkProbeOptions{}.rounds;
  bool json = false;
};

std::uint64_t file_bytes_of(const ProbeArguments& arguments) {
  const std::uint64_t bytes = parse_bytes(arguments.bytes);
  if (bytes >= kMinFileBytes) return bytes;
  throw Error(Errc::kInvalidArgument, fmt::format("--bytes {}: a file of {} or more says something",
                                                  arguments.bytes, format_bytes(kMinFileBytes)));
}

void probe(const ProbeArguments& arguments) {
  const Interrupt interrupt;
  ProbeReport report;
  report.directory = arguments.directory;
  report.file_bytes = file_bytes_of(arguments);
  const std::shared_ptr<Device> device = make_device(arguments.device);
  report.device = device->traits().name;
  {
    JobBar bar;
    const LinkProbeOptions options{.rounds = arguments.rounds,
                                   .copy_bytes = std::min(LinkProbeOptions{}.copy_bytes, report.file_bytes),
                                   .progress = [&](const std::string& job, std::uint64_t done,
                                                   std::uint64_t total) { bar.update(job, done, total); },
                                   .stop = interrupt.token()};
    const ProbeFile file(arguments.directory);
    file.write(report.file_bytes, options, [&] {
      if (arguments.json) return;
      fmt::print("file    {} in {}, removed at the end\n\n", format_bytes(report.file_bytes),
                 printable(arguments.directory));
      std::fflush(stdout);
    });
    report.path = try_storage(file.path());
    report.storage = probe_storage(file.path(), options);
    report.links = probe_device(*device, options);
  }
  report.host_rooms = host_memory_rooms();
  report.device_room = device->memory_room();
  report.lock = lock_limit();
  fmt::print("{}", arguments.json ? json_text(to_json(report)) + "\n" : describe(report));
}

}  // namespace

void add_probe(CLI::App& program) {
  CLI::App* command = program.add_subcommand(
      "probe", "Measure the links of this machine: disk, page\ncache, device; and say what limits memory");
  const auto arguments = std::make_shared<ProbeArguments>();  // shared: the callback lives in `program`
  command
      ->add_option("--dir", arguments->directory,
                   "Of the disk to be measured; a file is written\nthere first and removed at the end")
      ->capture_default_str();
  command->add_option("--bytes", arguments->bytes, "Size of that file; less is quicker and says less")
      ->capture_default_str();
  command->add_option("--rounds", arguments->rounds, "Of everything measured; medians are printed")
      ->capture_default_str()
      ->check(number_range(1u, 10'000u));
  command->add_option("--device", arguments->device,
                      "cpu, cuda or cuda:N (default: cuda if there\nis one, else cpu)");
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->callback([arguments] { probe(*arguments); });
}

}  // namespace tierstream
