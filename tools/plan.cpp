#include <fmt/format.h>
#include <tierstream/io/checkpoint.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/plan.h>
#include <tierstream/tiers/plan_advice.h>

#include <limits>
#include <memory>
#include <optional>
#include <ostream>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "tools/commands.h"
#include "tools/device_choice.h"
#include "tools/interrupt.h"
#include "tools/json_text.h"
#include "tools/late_file.h"
#include "tools/layer_choice.h"
#include "tools/link_rates.h"
#include "tools/number_range.h"
#include "tools/plan_picture.h"
#include "tools/plan_report.h"

namespace tierstream {
namespace {

/// Of the curves over budgets.
constexpr std::uint32_t kSteps = 10;
struct PlanArguments {
  std::string path;
  std::string budget = "auto";
  std::string layers;
  std::string device;
  std::uint32_t slots = PlanOptions{}.max_slots;
  std::vector<std::string> rates;
  bool probe = false;
  double compute_seconds = 0;
  bool json = false;
  std::string picture;
};

/// The device that is planned for. One that is not here may be, where nothing is asked of it.
struct Target {
  DeviceTraits traits;
  std::shared_ptr<Device> device;  ///< null: not here
};

Target find_target(const PlanArguments& arguments) {
  try {
    const std::shared_ptr<Device> device = make_device(arguments.device);
    return {device->traits(), device};
  } catch (const Error& error) {
    const bool nothing_is_asked = !arguments.device.empty() && !arguments.probe && arguments.budget != "auto";
    if (error.errc() != Errc::kDeviceFailed || !nothing_is_asked) throw;
    return {{.name = arguments.device}, nullptr};
  }
}

PlanReport make_report(const PlanArguments& arguments, const std::optional<LateFile>& picture,
                       const std::stop_token& stop) {
  PlanReport report;
  report.rates = parse_rates(arguments.rates);
  const Target target = find_target(arguments);
  report.device = target.traits.name;
  report.budget =
      arguments.budget == "auto" ? Budget::detect(*target.device) : Budget::parse(arguments.budget);
  const Checkpoint checkpoint = Checkpoint::open(arguments.path);
  if (picture) picture->refuse_sources(checkpoint.files());
  report.checkpoint = arguments.path;
  report.layers = choose_layers(checkpoint, arguments.layers, arguments.path);
  const LayerTable table = checkpoint.layers(report.layers);

  const std::vector<double> layer_seconds(table.layers.size(), arguments.compute_seconds);
  const PlanOptions options{.reads_land = target.traits.reads_land,
                            .is_host = target.traits.is_host,
                            .allocation_bytes = target.traits.allocation_bytes,
                            .max_slots = arguments.slots,
                            .layer_seconds = layer_seconds};
  make_plan(table, report.budget, {}, options);  // what is wrong with it shows before anything is measured
  if (arguments.probe) report.rates = measure_rates(checkpoint, *target.device, stop).rates();
  report.plan = make_plan(table, report.budget, report.rates, options);
  report.layer_homes = homes_of(table, report.plan);
  report.outside_bytes = table.outside.bytes();
  report.one_more_gib = advise(table, report.budget, report.rates, options, report.plan);
  report.over_gpu = curve_over(&Budget::gpu, table, report.budget, report.rates, options, kSteps);
  report.over_page_cache =
      curve_over(&Budget::page_cache, table, report.budget, report.rates, options, kSteps);
  return report;
}

void plan(const PlanArguments& arguments) {
  std::optional<Interrupt> interrupt;
  if (arguments.probe) interrupt.emplace();  // nothing else takes long
  std::optional<LateFile> picture;
  if (!arguments.picture.empty()) picture.emplace(arguments.picture);
  const PlanReport report =
      make_report(arguments, picture, interrupt ? interrupt->token() : std::stop_token());
  fmt::print("{}", arguments.json ? json_text(to_json(report)) + "\n" : describe(report));
  if (!picture) return;
  picture->write([&](std::ostream& out) { write_plan_picture(report, out); });
  if (!arguments.json) fmt::print("\npicture {}\n", printable(picture->path()));
}

}  // namespace

void add_plan(CLI::App& program) {
  CLI::App* command = program.add_subcommand("plan",
                                             "Say which bytes of a checkpoint would live where,\nand how "
                                             "long a pass would take; reads headers only");
  const auto arguments = std::make_shared<PlanArguments>();  // shared: the callback lives in `program`
  command->add_option("PATH", arguments->path, "A .safetensors file or a checkpoint's directory")->required();
  command
      ->add_option(
          "--budget", arguments->budget,
          "Bytes for each tier, e.g.\ngpu=2GiB,pinned=64MiB,page_cache=8GiB;\nauto: what the machine has")
      ->capture_default_str();
  command->add_option("--layers", arguments->layers,
                      "Common prefix of the layers' names, e.g.\nmodel.layers (default: the largest list)");
  command->add_option("--device", arguments->device,
                      "cpu, cuda or cuda:N (default: cuda if there\nis one, else cpu); with a --budget, one "
                      "that\nis not here can be planned for");
  command->add_option("--slots", arguments->slots, "At most; gpu bytes beyond them keep tensors\nresident")
      ->capture_default_str()
      ->check(number_range(1u, std::numeric_limits<std::uint32_t>::max()));
  CLI::Option* rates = command
                           ->add_option("--rates", arguments->rates,
                                        "Bytes a second of the links, e.g.\ndisk=1.7GB,host_to_device=50GB")
                           ->delimiter(',')
                           ->allow_extra_args(false);
  command
      ->add_flag("--probe", arguments->probe,
                 "Measure them: reads the checkpoint's own files\nfor a few seconds")
      ->excludes(rates);
  command->add_option("--compute", arguments->compute_seconds, "Seconds that each layer computes")
      ->check(number_range(0.0, 1e6));
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->add_option("--picture", arguments->picture, "File for a picture (SVG) of who lives where");
  command->callback([arguments] { plan(*arguments); });
}

}  // namespace tierstream
