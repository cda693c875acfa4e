// Sentence embeddings by all-MiniLM-L6-v2: once with all weights loaded, then with its layers streamed under
// budgets smaller than its weights, and the proof that the results are the same to the bit.
//
// Exit codes: 0 all runs equal; 1 they differ; 2 wrong input, option or environment.
#include <fmt/format.h>
#include <tierstream/adapters/torch/tensors.h>
#include <tierstream/io/error.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <optional>

#include "hugging_face/waiting_threads.h"
#include "report.h"
#include "runs.h"
#include "tools/device_choice.h"
#include "tools/number_range.h"
#include "tools/progress_bar.h"
#include "tools/standard_output.h"
#include "wordpiece.h"

namespace tierstream::minilm {
namespace {

/// What the model was trained for (sentence_bert_config.json).
constexpr std::size_t kMaxTokens = 256;
constexpr std::uint64_t kPinnedBytes = 16u << 20;

struct Options {
  std::string model_directory;
  std::vector<std::string> sentences{"A man is eating food.",
                                     "Someone is having a meal.",
                                     "The new movie is awesome.",
                                     "I really enjoyed that film.",
                                     "The stock market fell sharply today.",
                                     "A cheetah is running behind its prey."};
  std::string budget;
  std::string device;
  std::size_t passes = 5;
  bool json = false;
};

/// [batch, tokens], shorter lists filled with `padding`.
at::Tensor to_batch(const std::vector<std::vector<std::int64_t>>& lists, std::int64_t padding) {
  const auto longest = std::ranges::max_element(lists, {}, &std::vector<std::int64_t>::size)->size();
  const auto batch = torch::full(
      {static_cast<std::int64_t>(lists.size()), static_cast<std::int64_t>(longest)}, padding, torch::kLong);
  for (std::size_t i = 0; i < lists.size(); ++i) {
    std::ranges::copy(lists[i], batch[static_cast<std::int64_t>(i)].data_ptr<std::int64_t>());
  }
  return batch;
}

struct NamedShares {
  std::string name;
  BudgetShares shares;
};

/// Half of the weights' bytes, and the least that works; or what the user asks for.
std::vector<NamedShares> choose_budgets(const Options& options, const ModelTables& tables,
                                        std::uint64_t weight_bytes, const Device& device) {
  const PlanOptions planning{.reads_land = device.traits().reads_land};
  if (!options.budget.empty()) {
    return {{"as asked", share(Budget::parse(options.budget), tables, planning)}};
  }
  const Budget half{.gpu = weight_bytes / 2, .pinned = kPinnedBytes};
  return {{"half the weights", share(half, tables, planning)}, {"minimum", least_shares(tables, planning)}};
}

std::uint64_t bytes_of(const std::vector<Layer>& layers) {
  std::uint64_t sum = 0;
  for (const Layer& layer : layers) sum += layer.bytes();
  return sum;
}

void tell(const std::string& line) { fmt::print(stderr, "minilm: {}\n", line); }

/// Returns whether the runs agree to the bit.
bool run(const Options& options) {
  const std::string& directory = options.model_directory;
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const BertConfig config = BertConfig::load(directory + "/config.json");
  const WordPiece tokenizer = WordPiece::load(directory + "/vocab.txt");
  const ModelTables tables = tables_of(checkpoint);
  const std::uint64_t layer_bytes = bytes_of(tables.layers.layers);
  const std::uint64_t word_bytes = bytes_of(tables.words.layers);
  const std::uint64_t weight_bytes = layer_bytes + word_bytes + tables.layers.outside.bytes();
  const std::shared_ptr<Device> device = make_device(options.device);
  const std::vector<NamedShares> budgets = choose_budgets(options, tables, weight_bytes, *device);

  Input input{options.sentences, {}};
  const std::size_t max_tokens = std::min(kMaxTokens, static_cast<std::size_t>(config.max_positions));
  for (const std::string& sentence : input.sentences) {
    input.token_ids.push_back(tokenizer.encode(sentence, max_tokens));
  }
  const at::Tensor ids = to_batch(input.token_ids, tokenizer.padding()).to(to_torch_device(*device));

  if (!options.json) {
    fmt::print("{} on {}; {} of weights: {} of {},\n{} of word vectors, {} besides\n\n",
               counted(input.sentences.size(), "sentence"), device->traits().name, format_bytes(weight_bytes),
               counted(tables.layers.layers.size(), "layer"),
               format_bytes(tables.layers.layers.front().bytes()), format_bytes(word_bytes),
               format_bytes(tables.layers.outside.bytes()));
    std::fflush(stdout);
  }
  std::vector<Run> runs;
  {
    std::optional<ProgressBar> bar;
    std::uint64_t done_bytes = 0;
    const auto begin_run = [&](const std::string& label) {
      bar.emplace(label, weight_bytes * options.passes);
      done_bytes = 0;
    };
    const Job job{.checkpoint = checkpoint,
                  .config = config,
                  .device = device,
                  .ids = ids,
                  .mask = ids != tokenizer.padding(),
                  .passes = options.passes,
                  .on_pass = [&] { bar->update(done_bytes += weight_bytes); }};
    begin_run("resident");
    runs.push_back(run_resident(job));
    for (const auto& [name, shares] : budgets) {
      begin_run("streamed, " + name);
      runs.push_back(run_streamed(job, name, shares));
    }
  }
  for (const Run& run : runs) {
    if (!run.streaming) continue;
    const bool is_host = device->traits().is_host;
    std::string hint = waiting_threads_hint(run.streaming->layers, is_host);
    if (hint.empty()) hint = waiting_threads_hint(run.streaming->words, is_host);
    if (hint.empty()) continue;
    tell(hint);
    break;
  }
  const Results results{input, weight_bytes, runs};
  fmt::print("{}{}", options.json ? to_json(results) : describe(results), options.json ? "\n" : "");
  return are_bit_equal(runs);
}

int fail(const std::string& line) {
  tell(line);
  return 2;
}

int run_program(int argc, char** argv) {
  CLI::App program(
      "Sentence embeddings by all-MiniLM-L6-v2: all weights loaded, and streamed within\nbudgets.", "minilm");
  Options options;
  program
      .add_option("MODEL_DIR", options.model_directory,
                  "Directory of config.json, vocab.txt and\nmodel.safetensors")
      ->required();
  program.add_option("--sentence", options.sentences, "A sentence to embed; repeat for more")
      ->allow_extra_args(false);
  program.add_option("--budget", options.budget, "One streamed run, e.g. gpu=60MiB,pinned=4MiB");
  program.add_option("--passes", options.passes, "Times that every run repeats")
      ->check(number_range(1, 10000));
  program.add_option("--device", options.device,
                     "cpu, cuda or cuda:N (default: cuda if there\nis one, else cpu)");
  program.add_flag("--json", options.json, "Print one JSON object");
  try {
    program.parse(argc, argv);
    const bool are_equal = run(options);
    finish_standard_output();
    return are_equal ? 0 : 1;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return program.exit(error);  // --help
    return fail(Error(Errc::kInvalidArgument, std::string(error.what()) + "; see minilm --help").what());
  } catch (const Error& error) {
    return fail(error.what());
  } catch (const c10::Error& error) {
    return fail(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}

}  // namespace
}  // namespace tierstream::minilm

int main(int argc, char** argv) { return tierstream::minilm::run_program(argc, argv); }
