#include <fmt/format.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/io/error.h>
#include <tierstream/streamer/streamer.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/commands.h"
#include "tools/device_choice.h"
#include "tools/interrupt.h"
#include "tools/json_text.h"
#include "tools/layer_choice.h"
#include "tools/link_rates.h"
#include "tools/number_range.h"
#include "tools/path_report.h"
#include "tools/probe_report.h"
#include "tools/progress_bar.h"
#include "tools/run_report.h"
#include "tools/synthetic_checkpoint.h"
#include "tools/tensor_verifier.h"
#include "tools/trace_files.h"

namespace tierstream {
namespace {

using Clock = std::chrono::steady_clock;

struct RunArguments {
  std::string path;
  std::string budget = "auto";
  std::string layers;
  std::uint32_t slots = StreamerOptions{}.max_slots;
  std::uint32_t passes = 1;
  bool verify = false;
  std::string io = "auto";
  std::string backend = "auto";
  std::optional<unsigned> read_threads;
  std::vector<std::string> require;
  std::string device;
  bool no_landing = false;
  bool json = false;
  std::string trace;
  std::string timeline;
  std::vector<std::string> rates;
  bool probe = false;
};

bool is_required(const RunArguments& arguments, const std::string& what) {
  return std::find(arguments.require.begin(), arguments.require.end(), what) != arguments.require.end();
}

StorageOptions storage_options(const RunArguments& arguments) {
  StorageOptions options;
  const bool require_direct = is_required(arguments, "direct");
  if (require_direct && arguments.io == "buffered") {
    throw Error(Errc::kInvalidArgument, "--io buffered leaves no way to meet --require direct");
  }
  if (require_direct || arguments.io == "direct") options.cache = CacheUse::kDirect;
  if (arguments.io == "buffered") options.cache = CacheUse::kBuffered;
  options.require_io_uring = is_required(arguments, "io_uring");
  options.require_registered = is_required(arguments, "registered");
  options.threads = arguments.read_threads;
  return options;
}

/// A backend is chosen by the scheme of the address.
std::string address_of(const RunArguments& arguments) {
  if (arguments.backend == "auto") return arguments.path;
  if (arguments.path.find("://") != std::string::npos) {
    throw Error(Errc::kInvalidArgument, "the address says how it is read; leave --backend out",
                {.file = arguments.path});
  }
  return arguments.backend + "://" + arguments.path;
}

std::uint64_t seed_of(const Checkpoint& checkpoint, const RunArguments& arguments) {
  if (const std::optional<std::uint64_t> seed = synthetic_seed(checkpoint.metadata())) return *seed;
  throw Error(Errc::kInvalidArgument,
              "--verify needs a checkpoint that this version of `tierstream synth` wrote",
              {.file = arguments.path});
}

/// One pass over all layers. `on_layer` is called with each while it is leased.
template <typename OnLayer>
void walk(Streamer& streamer, const PassOptions& options, const std::string& label, const OnLayer& on_layer) {
  std::uint64_t total_bytes = 0;
  for (const Layer& layer : streamer.table().layers) total_bytes += layer.bytes();
  ProgressBar bar(label, total_bytes);
  std::uint64_t done_bytes = 0;
  for (const Lease& lease : streamer.pass(options)) {
    on_layer(lease);
    done_bytes += lease.layer().bytes();
    bar.update(done_bytes);
  }
}

void verify_layer(TensorVerifier& verifier, const Lease& lease, const std::stop_token& stop) {
  for (std::size_t i = 0; i < lease.size(); ++i) {
    if (stop.stop_requested()) throw Error(Errc::kCancelled, "verifying was stopped");
    const TensorView tensor = lease.tensor(i);
    verifier.verify(lease.layer().full_name(*tensor.spec), tensor);
  }
}

void verify_outside(TensorVerifier& verifier, Streamer& streamer, const std::stop_token& stop) {
  const Layer& outside = streamer.table().outside;
  for (const TensorSpec& tensor : outside.tensors) {
    verifier.verify(outside.full_name(tensor), streamer.outside(tensor.name, {.stop = stop}));
  }
}

/// People get each line as soon as it is known; `--json` keeps quiet until the end.
RunReport run(const RunArguments& arguments, const TraceFiles& traces, const std::stop_token& stop) {
  Clock::time_point begin = Clock::now();
  const auto tell = [&](const std::string& text) {
    if (arguments.json) return;
    fmt::print("{}", text);
    std::fflush(stdout);
  };
  const Checkpoint checkpoint = Checkpoint::open(address_of(arguments), storage_options(arguments));
  traces.refuse_sources(checkpoint.files());
  RunReport report;
  report.checkpoint = arguments.path;
  report.layers = choose_layers(checkpoint, arguments.layers, arguments.path);
  const std::shared_ptr<Device> device = make_device(arguments.device, !arguments.no_landing);
  report.budget = arguments.budget == "auto" ? Budget::detect(*device) : Budget::parse(arguments.budget);
  report.device = device->traits().name;
  report.rates = parse_rates(arguments.rates);
  if (arguments.probe) {
    const Clock::time_point probe_begin = Clock::now();
    const MeasuredRates measured = measure_rates(checkpoint, *device, stop);
    report.rates = measured.rates();
    tell(describe_links({{"disk, direct", measured.disk}, {"host to device", measured.host_to_device}}) +
         '\n');
    begin += Clock::now() - probe_begin;
  }
  std::optional<TensorVerifier> verifier;
  if (arguments.verify) verifier.emplace(seed_of(checkpoint, arguments), *device, checkpoint.files());

  Streamer streamer(checkpoint.layers(report.layers), {.device = device,
                                                       .budget = report.budget,
                                                       .max_slots = arguments.slots,
                                                       .register_slots = is_required(arguments, "registered"),
                                                       .trace = traces.trace()});
  report.ring_refusal = streamer.registration_refusal();
  if (!report.ring_refusal.empty() && is_required(arguments, "registered")) {
    throw Error(Errc::kRequirementNotMet, "the ring is not registered: " + report.ring_refusal);
  }
  tell(fmt::format("layers  {} of {} on {}\n", streamer.layer_count(), printable(report.layers),
                   report.device));
  tell(describe(streamer.plan()));

  const JudgeOptions judging{.is_host = device->traits().is_host};
  for (std::uint32_t number = 1; number <= arguments.passes; ++number) {
    const PassOptions options{.last = number == arguments.passes, .stop = stop};
    bool first_layer = number == 1;
    walk(streamer, options, fmt::format("pass {} of {}", number, arguments.passes), [&](const Lease& lease) {
      if (std::exchange(first_layer, false)) {
        report.first_layer_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        report.path = streamer.storage_path();
        tell(describe_path(report.path, report.ring_refusal));
        tell(fmt::format("ready   first layer after {:.3f} s\n", report.first_layer_seconds));
      }
      if (verifier) verify_layer(*verifier, lease, stop);
    });
    const PassStats pass = streamer.stats().last_pass;
    report.passes.push_back({pass, judge(pass, streamer.plan(), report.rates, judging)});
    tell(describe_pass(number, report.passes.back(), report.rates));
  }
  if (verifier) {
    verify_outside(*verifier, streamer, stop);
    report.verified_tensors = verifier->verified_tensors();
  }
  complete(report, streamer);  // the path again: a fallback may have come late
  tell(describe_end(report));
  return report;
}

}  // namespace

void add_run(CLI::App& program) {
  CLI::App* command =
      program.add_subcommand("run", "Stream a checkpoint's layers within budgets,\npass by pass, and report");
  const auto arguments = std::make_shared<RunArguments>();  // shared: the callback lives in `program`
  command->add_option("PATH", arguments->path, "A .safetensors file or a checkpoint's directory")->required();
  command
      ->add_option(
          "--budget", arguments->budget,
          "Bytes for each tier, e.g.\ngpu=2GiB,pinned=64MiB,page_cache=8GiB. gpu: slots\nand resident "
          "tensors; pinned: the ring;\n"
          "page_cache: file pages that are kept, locked, and\nnot read again. auto: what the machine has")
      ->capture_default_str();
  command->add_option("--layers", arguments->layers,
                      "Common prefix of the layers' names, e.g.\nmodel.layers (default: the largest list)");
  command->add_option("--slots", arguments->slots, "At most; gpu bytes beyond them keep tensors\nresident")
      ->capture_default_str()
      ->check(number_range(1u, std::numeric_limits<std::uint32_t>::max()));
  command->add_option("--passes", arguments->passes, "Walks over the layers")
      ->capture_default_str()
      ->check(number_range(1u, std::numeric_limits<std::uint32_t>::max()));
  command->add_flag("--verify", arguments->verify,
                    "Compare every byte with what `synth` wrote;\nexit code 1 where one differs");
  command
      ->add_option("--io", arguments->io,
                   "Past the page cache (direct) or through it\n(buffered); auto: from it what lies "
                   "there,\npast it the rest")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "direct", "buffered"}));
  command->add_option("--backend", arguments->backend, "How files are read")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "io_uring", "posix"}));
  command
      ->add_option(
          "--read-threads", arguments->read_threads,
          "At most so many threads read: posix's own\n(default: 8), io_uring's workers for buffered\nreads")
      ->check(number_range(1u, 1024u));
  command
      ->add_option("--require", arguments->require,
                   "direct, io_uring or registered: fail where it\nis not to be had; may be repeated")
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"direct", "io_uring", "registered"}));
  command->add_option("--device", arguments->device,
                      "cpu, cuda or cuda:N (default: cuda if there\nis one, else cpu)");
  command->add_flag("--no-landing", arguments->no_landing,
                    "On the CPU device, read into the ring and\ncopy instead of reading into slots");
  CLI::Option* const rates = command
                                 ->add_option("--rates", arguments->rates,
                                              "What the links give, bytes a second, e.g.\n"
                                              "disk=1.7GB,host_to_device=50GB; passes are\njudged by it")
                                 ->delimiter(',')
                                 ->allow_extra_args(false);
  command
      ->add_flag("--probe", arguments->probe,
                 "Measure that first, for a few seconds; only\nreads, and not through the page cache")
      ->excludes(rates);
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->add_option("--trace", arguments->trace,
                      "File for what happened when, to be opened in\nui.perfetto.dev or chrome://tracing");
  command->add_option("--timeline", arguments->timeline, "File for a picture (SVG) of the last pass");
  command->callback([arguments] {
    const Interrupt interrupt;
    TraceFiles traces(arguments->trace, arguments->timeline);
    RunReport report;
    try {
      report = run(*arguments, traces, interrupt.token());
    } catch (...) {
      const std::string written = traces.write_what_there_is();
      if (!arguments->json) std::fputs(written.c_str(), stdout);  // which does not throw over what is thrown
      throw;
    }
    if (arguments->json) fmt::print("{}\n", json_text(to_json(report)));
    const std::string written = traces.write();
    if (!arguments->json) fmt::print("{}", written);
  });
}

}  // namespace tierstream
