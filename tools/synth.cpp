#include <fmt/format.h>
#include <tierstream/io/error.h>
#include <tierstream/tiers/budget.h>

#include <cctype>
#include <memory>
#include <optional>
#include <string>

#include "tools/commands.h"
#include "tools/interrupt.h"
#include "tools/progress_bar.h"
#include "tools/synthetic_checkpoint.h"

namespace tierstream {
namespace {

struct SynthArguments {
  std::string directory;
  SyntheticSpec spec;
  bool force = false;
};

DType dtype_of(const std::string& name) {
  std::string upper = name;
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (const std::optional<DType> dtype = parse_dtype(upper)) return *dtype;
  throw CLI::ValidationError("--dtype", "unknown dtype \"" + name + "\"");
}

std::uint64_t bytes_of(const std::string& option, const std::string& text) try {
  return parse_bytes(text);
} catch (const Error& error) {
  throw CLI::ValidationError(option, error.what());
}

void synth(const SynthArguments& arguments) {
  const Interrupt interrupt;
  ProgressBar bar("writing", design_synthetic_model(arguments.spec).total_bytes);
  const SyntheticModel model =
      write_synthetic_checkpoint(arguments.directory, arguments.spec,
                                 {.overwrite = arguments.force,
                                  .progress = [&](std::uint64_t done_bytes) { bar.update(done_bytes); },
                                  .stop = interrupt.token()});
  fmt::print("{} of {} ({} bytes), hidden size {}, MLP size {}, {}\n",
             counted(arguments.spec.layers, "layer"), format_bytes(model.layer_bytes), model.layer_bytes,
             model.hidden, model.intermediate, name_of(arguments.spec.dtype));
  fmt::print("{} in {} of {}\n", format_bytes(model.total_bytes), counted(arguments.spec.shards, "shard"),
             arguments.directory);
}

}  // namespace

void add_synth(CLI::App& program) {
  CLI::App* command = program.add_subcommand(
      "synth", "Write a checkpoint of Llama's tensor names\nand proportions, its contents made from a seed");
  const auto arguments = std::make_shared<SynthArguments>();  // shared: the callback lives in `program`
  SyntheticSpec& spec = arguments->spec;
  command->add_option("DIR", arguments->directory, "Where to write it; made if need be")->required();
  command->add_option("--layers", spec.layers, "Number of layers")->required();
  command
      ->add_option_function<std::string>(
          "--layer-bytes",
          [&spec](const std::string& text) { spec.layer_bytes = bytes_of("--layer-bytes", text); },
          "Size of a layer, e.g. 64MiB; comes as near\nas whole shapes allow")
      ->required();
  command->add_option("--shards", spec.shards, "Number of files")->capture_default_str();
  command->add_option_function<std::string>(
      "--dtype", [&spec](const std::string& name) { spec.dtype = dtype_of(name); },
      "Of all tensors: bf16 (default), f16, f32,\nf8_e4m3, i8 or another of the format's");
  command->add_option("--vocab", spec.vocabulary, "Rows of the embedding and of the head")
      ->capture_default_str();
  command->add_option("--seed", spec.seed, "Other seeds, other contents")->capture_default_str();
  command->add_option_function<std::string>(
      "--skew", [&spec](const std::string& text) { spec.skew = bytes_of("--skew", text); },
      "The data starts this many bytes after a\nmultiple of 4096 (default 0: aligned)");
  command->add_flag("--force", arguments->force, "Replace the checkpoint that DIR holds");
  command->callback([arguments] { synth(*arguments); });
}

}  // namespace tierstream
