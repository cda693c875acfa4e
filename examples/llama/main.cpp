// Text by a model of the Llama family, straight from its Hugging Face directory, within budgets that may be
// smaller than its weights.
//
// Exit codes: 0 done; 2 wrong input, option or environment.
#include <fmt/format.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>
#include <tierstream/io/safetensors.h>

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <optional>
#include <ostream>

#include "hugging_face/waiting_threads.h"
#include "llama/generate.h"
#include "llama/report.h"
#include "llama/tokenizer.h"
#include "tools/cut_file_handler.h"
#include "tools/device_choice.h"
#include "tools/json_text.h"
#include "tools/late_file.h"
#include "tools/number_range.h"
#include "tools/standard_output.h"

namespace tierstream::llama {
namespace {

struct Arguments {
  std::string directory;
  std::vector<std::int64_t> ids;
  std::optional<std::string> prompt;
  std::int64_t max_tokens = GenerationOptions{}.max_tokens;
  std::optional<double> top_p;
  std::optional<double> temperature;
  std::uint64_t seed = 0;
  std::vector<std::string> loras;
  std::string budget = "auto";
  bool resident = false;
  bool from_ram = false;
  std::string device;
  std::string logits;
  bool json = false;
};

/// Greedy, unless an option of sampling is given.
Sampling sampling_of(const Arguments& arguments) {
  if (!arguments.top_p && !arguments.temperature) return {};
  return {.temperature = arguments.temperature.value_or(1.0),
          .top_p = arguments.top_p.value_or(1.0),
          .seed = arguments.seed};
}

struct LoraChoice {
  Lora lora;
  double strength;
};

/// DIR, or DIR=STRENGTH.
LoraChoice open_lora(const std::string& choice) {
  const std::size_t sign = choice.rfind('=');
  if (sign == std::string::npos) return {Lora::open(choice), 1};
  const std::string number = choice.substr(sign + 1);
  double strength = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), strength);
  if (error != std::errc{} || end != number.data() + number.size() || !std::isfinite(strength)) {
    throw Error(Errc::kInvalidArgument,
                fmt::format("\"{}\" is no strength of a LoRA; see llama --help", number));
  }
  return {Lora::open(choice.substr(0, sign)), strength};
}

std::vector<std::int64_t> prompt_of(const Arguments& arguments, const Tokenizer* tokenizer) {
  if (!arguments.prompt && arguments.ids.empty()) {
    throw Error(Errc::kInvalidArgument, "no prompt: give one as --ids or --prompt; see llama --help");
  }
  if (!arguments.prompt) return arguments.ids;
  if (tokenizer == nullptr) {
    throw Error(Errc::kInvalidArgument,
                "has no tokenizer.model that this program can use: give the prompt as --ids",
                {.file = arguments.directory});
  }
  return tokenizer->encode(*arguments.prompt);
}

/// What the model is read from would be destroyed.
void refuse_sources(const LateFile& logits, const Arguments& arguments, const LlamaFiles& files) {
  logits.refuse_sources(files.checkpoint.files());
  for (const auto& entry : std::filesystem::directory_iterator(arguments.directory)) {
    const std::filesystem::path extension = entry.path().extension();
    if (extension == ".json" || extension == ".model") logits.refuse(entry.path());
  }
}

void write_logits(const at::Tensor& logits, LateFile& file) {
  const std::array entries{SafetensorsEntry{
      .name = "logits", .dtype = DType::kF32, .shape = logits.sizes().vec(), .offset = 0, .bytes = 0}};
  const std::vector<std::byte> header = format_safetensors_header(entries, {});
  file.write([&](std::ostream& out) {
    out.write(reinterpret_cast<const char*>(header.data()), static_cast<std::streamsize>(header.size()));
    out.write(static_cast<const char*>(logits.const_data_ptr()),
              static_cast<std::streamsize>(logits.nbytes()));
  });
}

/// People get the text on standard output, each token as soon as it is known, and the report around it on
/// standard error. `--json` keeps quiet until the end.
class Output {
 public:
  /// Borrows the tokenizer; null: tokens are written as ids.
  Output(bool quiet, const Tokenizer* tokenizer, const std::vector<std::int64_t>& prompt) : quiet_(quiet) {
    if (tokenizer != nullptr) stream_.emplace(*tokenizer, prompt);
  }

  void report(const std::string& text) const {
    if (!quiet_) fmt::print(stderr, "{}", text);
  }
  void add(std::int64_t token) { write(stream_ ? stream_->add(token) : fmt::format("{} ", token)); }
  void finish() {
    if (stream_) write(stream_->finish());
    write_out("\n");
  }
  std::optional<std::string> text() const { return stream_ ? std::optional(text_) : std::nullopt; }

 private:
  void write(const std::string& piece) {
    text_ += piece;
    write_out(piece);
  }
  void write_out(const std::string& piece) const {
    if (quiet_) return;
    fmt::print("{}", piece);
    std::fflush(stdout);
  }

  bool quiet_;
  std::optional<TextStream> stream_;
  std::string text_;
};

void tell(const std::string& line) { fmt::print(stderr, "llama: {}\n", line); }

/// What was asked for. "auto": what the machine has once `loaded` (null: none) lies in its memory, where it
/// is registered.
Budget budget_of(const Arguments& arguments, Device& device, const Llama& loaded) {
  if (arguments.budget != "auto") return Budget::parse(arguments.budget);
  Budget budget = Budget::detect(device);
  if (loaded) {
    for (const at::Tensor& parameter : loaded->parameters()) budget.pinned += parameter.nbytes();
  }
  return budget;
}

void run(const Arguments& arguments) {
  const LlamaFiles files = LlamaFiles::open(arguments.directory);
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load_if_there(arguments.directory);
  Results results{
      .prompt = prompt_of(arguments, tokenizer.get()), .generation = {}, .text = {}, .streaming = {}};
  check_prompt(results.prompt, files.config);
  const Sampler refuses_wrong_options(sampling_of(arguments));  // before any weight is loaded
  std::vector<LoraChoice> loras;
  for (const std::string& choice : arguments.loras) loras.push_back(open_lora(choice));
  const std::shared_ptr<Device> device = make_device(arguments.device);
  std::optional<LateFile> logits;
  if (!arguments.logits.empty()) refuse_sources(logits.emplace(arguments.logits), arguments, files);
  GenerationOptions options{.prompt = results.prompt,
                            .max_tokens = arguments.max_tokens,
                            .sampling = sampling_of(arguments),
                            .keep_logits = logits.has_value(),
                            .device = to_torch_device(*device)};
  Output output(arguments.json, tokenizer.get(), results.prompt);
  options.on_token = [&](std::int64_t token) { output.add(token); };

  if (arguments.resident) {
    ResidentLlama weights(files, options.device);
    results.generation = generate(weights, files, options);
  } else {
    RunReport& report = results.streaming.emplace();
    report.checkpoint = arguments.directory;
    report.layers = LlamaImpl::kLayersPath;
    report.device = device->traits().name;
    Llama loaded{nullptr};
    if (arguments.from_ram) loaded = load_llama(files, at::kCPU);
    report.budget = budget_of(arguments, *device, loaded);
    const StreamerOptions streaming{.device = device, .budget = report.budget};
    StreamedLlama weights =
        loaded ? StreamedLlama(std::move(loaded), streaming) : StreamedLlama(files, streaming);
    for (const LoraChoice& choice : loras) weights.add_lora(choice.lora, choice.strength);
    const Streamer& streamer = weights.streamer();
    report.ring_refusal = streamer.registration_refusal();
    const bool is_host = device->traits().is_host;
    if (const std::string hint = waiting_threads_hint(streamer.plan(), is_host); !hint.empty()) tell(hint);
    output.report(fmt::format("layers  {} of {} on {}, {}\n{}\n", streamer.layer_count(), report.layers,
                              report.device, c10::toString(files.dtype), describe(streamer.plan())));
    options.on_pass = [&] {
      const PassStats pass = streamer.stats().last_pass;
      report.passes.push_back({pass, judge(pass, streamer.plan(), report.rates, {.is_host = is_host})});
    };
    results.generation = generate(weights, files, options);
    results.least = weights.least_budget();
    complete(report, streamer);
    if (const RamWeightsStatus ram = streamer.ram_weights_status(); !ram.refusal.empty()) {
      report.path.fallbacks.push_back({"registered weights", ram.refusal});
    }
    report.peak_bytes.gpu += weights.kept_bytes();
  }
  output.finish();
  results.text = output.text();
  if (logits) write_logits(results.generation.logits, *logits);
  output.report("\n" + describe(results));
  if (arguments.json) fmt::print("{}\n", json_text(to_json(results)));
}

int fail(const std::string& line) {
  tell(line);
  return 2;
}

void add_options(CLI::App& program, Arguments& arguments) {
  program
      .add_option(
          "MODEL_DIR", arguments.directory,
          "Hugging Face directory of config.json and\n.safetensors, and a SentencePiece tokenizer.model\n"
          "for text")
      ->required();
  CLI::Option* const ids = program.add_option("--ids", arguments.ids, "The prompt as token ids, e.g. 1,2,3")
                               ->delimiter(',')
                               ->allow_extra_args(false)
                               ->check(number_range(std::numeric_limits<std::int64_t>::min(),
                                                    std::numeric_limits<std::int64_t>::max())
                                           .description(""));
  program.add_option("--prompt", arguments.prompt, "The prompt as text")->excludes(ids);
  program.add_option("--max-tokens", arguments.max_tokens, "To generate at most; fewer where the text ends")
      ->capture_default_str()
      ->check(number_range(std::int64_t{1}, std::int64_t{1} << 20));
  program.add_option("--top-p", arguments.top_p,
                     "Choose by chance among the most likely tokens\nthat have this much together, e.g. 0.9");
  program.add_option("--temperature", arguments.temperature,
                     "Divides the logits, e.g. 0.8. Without this and\n--top-p always the most likely token");
  program.add_option("--seed", arguments.seed, "Of chance: the same one gives the same tokens")
      ->capture_default_str();
  CLI::Option* const budget =
      program
          .add_option(
              "--budget", arguments.budget,
              "Bytes for each tier, e.g.\ngpu=2GiB,pinned=64MiB,page_cache=8GiB; auto: what\nthe machine has")
          ->capture_default_str();
  CLI::Option* const loras =
      program
          .add_option("--lora", arguments.loras,
                      "Directory of a LoRA as Hugging Face peft saves it,\nand its strength if not 1, e.g. "
                      "my-lora=0.8. More\nthan one add up")
          ->allow_extra_args(false);
  CLI::Option* const from_ram = program.add_flag(
      "--from-ram", arguments.from_ram,
      "Load all weights into RAM first and stream them\nfrom there, registered as far as pinned goes");
  program.add_flag("--resident", arguments.resident, "Load all weights and run without tierstream")
      ->excludes(budget)
      ->excludes(loras)
      ->excludes(from_ram);
  program.add_option("--device", arguments.device,
                     "cpu, cuda or cuda:N (default: cuda if there is\none, else cpu)");
  program.add_option("--logits", arguments.logits,
                     "File for the logits of every position, as\nfloat32 in .safetensors");
  program.add_flag("--json", arguments.json, "Print one JSON object instead of the text");
}

int run_program(int argc, char** argv) {
  install_cut_file_handler();
  CLI::App program("Text by a Llama, Mistral or Qwen2, its weights streamed within budgets.", "llama");
  Arguments arguments;
  add_options(program, arguments);
  try {
    program.parse(argc, argv);
    run(arguments);
    finish_standard_output();
    return 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help
    return fail(Error(Errc::kInvalidArgument, std::string(error.what()) + "; see llama --help").what());
  } catch (const Error& error) {
    return fail(error.what());
  } catch (const c10::Error& error) {
    return fail(printable(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}

}  // namespace
}  // namespace tierstream::llama

int main(int argc, char** argv) { return tierstream::llama::run_program(argc, argv); }
