"""Compares the llama example with Hugging Face transformers on checkpoints that transformers makes and saves.

Usage: llama_reference.py LLAMA_PROGRAM

For each checkpoint: the logits against transformers' in the same dtype, both measured by transformers in float32
(float64, where that is the dtype) with the same weights, of the whole sequence at once and of the prompt and then token by token through both caches;
the same bits whether resident or streamed at the least budget, at half and at full; for float32 the tokens of greedy
generation. Each rotary scaling again in float32, where it matters within the prompt or begins to matter after it.

Exit codes: 0 they agree; 77 skipped, because transformers is not installed; others: they differ, or an error.
"""

import copy
import fcntl
import json
import os
import pathlib
import re
import select
import subprocess
import sys
import tempfile
import termios
import time

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

VOCABULARY = 160
FLOAT32_FLOOR = 2e-6  # of the largest logit: a tenth of what either errs by
PROMPT_TOKENS = 40
NEW_TOKENS = 8
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
BIASES = {"attention_bias": True, "mlp_bias": True}
TIED = {"tie_word_embeddings": True}
WINDOWS = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}
# name, class, what differs from SHAPE, dtype, the largest shard
CASES = [
    ("llama", "Llama", {}, torch.float32, "1GB"),
    ("llama_half", "Llama", {}, torch.float16, "100KB"),
    ("llama3_rope", "Llama", {"rope_parameters": LLAMA3}, torch.bfloat16, "100KB"),
    ("llama_linear_rope", "Llama", {"rope_parameters": LINEAR, **TIED, **BIASES}, torch.float32, "150KB"),
    ("llama_one_key", "Llama", {"num_key_value_heads": 1, **TIED}, torch.bfloat16, "1GB"),
    ("mistral", "Mistral", {"head_dim": 32, "sliding_window": 7}, torch.float32, "100KB"),
    ("mistral_bf16", "Mistral", {"sliding_window": 1000}, torch.bfloat16, "1GB"),
    ("qwen2", "Qwen2", TIED, torch.bfloat16, "100KB"),
    ("qwen2_windows", "Qwen2", WINDOWS, torch.float32, "1GB"),
]
# The lengths of a training that the prompt is beyond, and that the tokens after it come to.
PASSED = 24
REACHED = 43
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": PASSED}
WEIGHTS = {"mscale": 2.0, "mscale_all_dim": 0.5, "beta_fast": 2.0, "beta_slow": 0.25, "truncate": False}
YARN_OLDER = {
    "rope_scaling": {"type": "yarn", "factor": None, "attention_factor": 1.5, "mscale": 1.0},
    "rope_theta": 100.0,
    "original_max_position_embeddings": PASSED,
    "head_dim": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.25, 1.5, 2.0],
    "long_factor": [1.5, 2.0, 4, 6.0],
}
LONGROPE_LATER = {
    "rope_parameters": {**LONGROPE, "factor": 8.0, "original_max_position_embeddings": REACHED},
}
LONGROPE_OLDER = {
    "rope_scaling": {**LONGROPE, "attention_factor": 1.5, "original_max_position_embeddings": PASSED},
    "original_max_position_embeddings": REACHED,
}
# name, class, what differs from SHAPE: "rope_parameters", or "rope_scaling" of before transformers 5
ROTARY_CASES = [
    ("linear", "Qwen2", {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 1000.0}),
    ("dynamic", "Llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": PASSED}),
    ("dynamic_later", "Mistral", {"rope_parameters": DYNAMIC, "max_position_embeddings": REACHED}),
    ("llama3", "Llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
    ("yarn", "Llama", {"rope_parameters": YARN, "head_dim": 32}),
    ("yarn_weighted", "Mistral", {"rope_parameters": {**YARN, **WEIGHTS}, "head_dim": 32}),
    ("yarn_older", "Qwen2", YARN_OLDER),
    ("longrope", "Llama", {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": PASSED}}),
    ("longrope_later", "Qwen2", LONGROPE_LATER),
    ("longrope_older", "Mistral", LONGROPE_OLDER),
]

# What a run says of itself, beside the plan before and the path after the token's line.
REPORT = (
    r"^layers  (.|\n)*^prompt  3 tokens in \S+ m?s\n"
    r"^tokens  4, all but the first in \S+ m?s: [\d.]+ a second\n"
    r"^a token .*\d .*(\n|.)*^verdict "
)

failures = []


def expect(holds, what):
    if not holds:
        failures.append(what)


def make_checkpoint(directory, name, kind, changes, dtype, shard):
    """All weights are drawn anew: transformers begins with biases of 0 and norms of 1, which would hide mistakes."""
    torch.manual_seed(len(name))
    config = getattr(transformers, kind + "Config")(**{**SHAPE, **copy.deepcopy(changes)})  # it writes to them
    model = getattr(transformers, kind + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in parameter_name else 0.0, 0.2)
    model.to(dtype).save_pretrained(directory, max_shard_size=shard)
    if "rope_scaling" in changes:  # transformers has translated it
        path = directory / "config.json"
        saved = json.loads(path.read_text())
        del saved["rope_parameters"]
        path.write_text(json.dumps({**saved, **changes}))
    return model


def run(program, directory, ids, logits, *options):
    arguments = [program, directory, "--ids", ",".join(map(str, ids)), "--device", "cpu", "--json", *options]
    if logits:
        arguments += ["--logits", logits]
    process = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        sys.exit(f"llama ended with {process.returncode}: {process.stderr}")
    return json.loads(process.stdout), load_file(logits)["logits"] if logits else None


def budget(gpu, pinned):
    return ["--budget", f"gpu={gpu},pinned={pinned}"]


def compare_runs(name, program, directory, ids):
    """The resident run's results, which all streamed ones must have."""
    logits = str(directory / "logits.safetensors")
    options = ["--max-tokens", str(NEW_TOKENS)]
    resident, expected = run(program, directory, ids, logits, *options, "--resident")
    full, _ = run(program, directory, ids, None, *options, *budget("1GiB", "8MiB"))
    least = full["least"]
    half = least["gpu"] + (full["peak_bytes"]["gpu"] - least["gpu"]) // 2
    runs = {
        "full": budget("1GiB", "8MiB"),
        "half": budget(half, "8MiB"),
        "least": budget(least["gpu"], least["pinned"]),
        "from RAM": budget(half, "1GiB") + ["--from-ram"],
    }
    for label, given in runs.items():
        report, actual = run(program, directory, ids, logits, *options, *given)
        moved = report["bytes_per_token"]["disk" if label != "from RAM" else "pinned"]
        moved += report["bytes_per_token"]["page_cache"]
        expect(torch.equal(actual, expected), f"{name}: the logits of {label} are not those of the resident run")
        expect(report["tokens"] == resident["tokens"], f"{name}: the tokens of {label} are other ones")
        expect((moved > 0) == (label != "full"), f"{name}: {label} brought {moved} bytes for a token")
    return resident["tokens"], expected


def check(program, directory, name, kind, changes, dtype, shard):
    model = make_checkpoint(directory, name, kind, changes, dtype, shard)
    shards = len(list(directory.glob("model*.safetensors")))
    expect((shards > 1) == (shard != "1GB"), f"{name}: {shards} shards")
    ids = torch.randint(0, VOCABULARY, (PROMPT_TOKENS,)).tolist()
    tokens, logits = compare_runs(name, program, directory, ids)

    if dtype == torch.float32:
        check_generation(program, directory, name, model, ids, tokens)

    compare_with_transformers(program, directory, name, model, ids, tokens, logits)


def check_output(program, directory):
    """The text alone on standard output, the report on standard error; a hint where threads would spin."""
    make_checkpoint(directory, "llama", "Llama", {}, torch.float32, "1GB")
    arguments = [program, str(directory), "--ids", "1,2,3", "--device", "cpu", "--max-tokens", "4"]
    least = run(program, directory, [1, 2, 3], None, *budget("1GiB", "8MiB"))[0]["least"]
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    for policy, hint in (("passive", False), ("active", True)):
        for gpu, is_streamed in ((least["gpu"], True), ("1GiB", False)):
            process = subprocess.run(
                [*arguments, *budget(gpu, "8MiB")],
                capture_output=True, text=True, check=False, env={**threads, "OMP_WAIT_POLICY": policy},
            )
            expect(re.fullmatch(r"(\d+ ){4}\n", process.stdout), f"not the text alone: {process}")
            report = re.search(REPORT, process.stderr, re.M)
            expect(process.returncode == 0 and report, f"no report: {process}")
            hints = process.stderr.count("llama: without OMP_WAIT_POLICY=passive")
            expect(hints == (hint and is_streamed), f"{hints} hints with {policy} at gpu={gpu}: {process}")
    check_tokens_as_they_come(program, directory)
    check_sampling(program, directory)


def check_tokens_as_they_come(program, directory):
    """Into a pipe with room for a token and not for all: written at once, they would never begin to come."""
    arguments = [program, directory, "--ids", "1,2,3", "--device", "cpu", "--max-tokens", "60", "--resident"]
    reader, writer = os.pipe()
    page = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    taken = os.write(writer, b"\n" * (page - 8))
    with subprocess.Popen(arguments, stdout=writer, stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        deadline = time.monotonic() + 60
        while bytes_in(reader) == taken and process.poll() is None and time.monotonic() < deadline:
            select.select([], [], [], 0.01)
        expect(bytes_in(reader) > taken and process.poll() is None, "no token came before the last one")
        with open(reader, "rb") as output:
            expect(len(output.read().split()) == 60, "not 60 tokens")


def bytes_in(pipe):
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def check_sampling(program, directory):
    options = ["--max-tokens", "16", "--resident"]

    def tokens_of(*more):
        return run(program, directory, [1, 2, 3], None, *options, *more)[0]["tokens"]

    greedy = tokens_of()
    expect(tokens_of("--top-p", "0.000001") == greedy, "the least top-p is not greedy")
    sampled = tokens_of("--top-p", "0.95", "--seed", "7")
    expect(sampled == tokens_of("--top-p", "0.95", "--seed", "7"), "a seed gives other tokens each time")
    expect(sampled != greedy, "top-p gives the greedy tokens")


def check_rotary(program, directory, name, kind, changes):
    model = make_checkpoint(directory, name, kind, changes, torch.float32, "1GB")
    ids = torch.randint(0, VOCABULARY, (PROMPT_TOKENS,)).tolist()
    logits_path = str(directory / "logits.safetensors")
    report, logits = run(program, directory, ids, logits_path, "--max-tokens", str(NEW_TOKENS), "--resident")
    compare_with_transformers(program, directory, name, model, ids, report["tokens"], logits)


def compare_with_transformers(program, directory, name, model, ids, tokens, logits):
    """`logits`: of the prompt `ids`, and of `tokens` through the cache."""
    all_ids = ids + tokens[:-1]
    logits_path = str(directory / "at_once.safetensors")
    _, at_once = run(program, directory, all_ids, logits_path, "--max-tokens", "1", "--resident")
    is_float = model.dtype == torch.float32
    exact = type(model).from_pretrained(directory, dtype=torch.float64 if is_float else torch.float32).eval()
    with torch.no_grad():
        # A dynamic rotary base follows the length so far, in transformers the largest: the shorter come first.
        step = exact(torch.tensor([ids]))
        cached = [step.logits[0]]
        for token in tokens[:-1]:
            step = exact(torch.tensor([[token]]), cache=step.cache)
            cached.append(step.logits[0])
        reference = exact(torch.tensor([all_ids])).logits[0]
        theirs = float((model(torch.tensor([all_ids])).logits[0].to(reference.dtype) - reference).abs().max())
    floor = FLOAT32_FLOOR * float(reference.abs().max()) if is_float else 0.0
    errors = {
        "at once": float((at_once - reference).abs().max()),
        "by the cache": float((logits - torch.cat(cached)).abs().max()),
    }
    print(f"{name}: transformers' error {theirs:.2e}, ours {errors}, largest logit {float(reference.abs().max()):.1f}")
    for label, error in errors.items():
        expect(error <= 2 * theirs + floor, f"{name}: the error {label} is {error}, transformers' {theirs}")


def check_generation(program, directory, name, model, ids, tokens):
    prompt = torch.tensor([ids])
    greedy = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    expected = model.generate(prompt, **greedy)[0, len(ids) :].tolist()
    expect(tokens == expected, f"{name}: generated {tokens}, transformers {expected}")
    # An end token of generation_config.json stops it.
    path = directory / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [VOCABULARY - 1, expected[3]]}))
    report, _ = run(program, directory, ids, None, "--max-tokens", str(NEW_TOKENS), "--resident")
    end = expected.index(expected[3]) + 1
    expect(report["tokens"] == expected[:end], f"{name}: generated {report['tokens']} until an end token")


def expect_refusal(program, directory, fragment, *options):
    for where in (["--resident"], budget("1GiB", "8MiB")):
        arguments = [program, directory, "--ids", "1,2", "--device", "cpu", *where, *options]
        process = subprocess.run(arguments, capture_output=True, text=True, check=False)
        good = process.returncode == 2 and process.stderr.count("\n") == 1 and fragment in process.stderr
        expect(good and process.stdout == "", f"not a refusal with {fragment!r}: {process}")


def check_refusals(program, directory):
    make_checkpoint(directory, "llama", "Llama", {}, torch.float32, "1GB")
    expect_refusal(program, directory, f"-1 is outside the vocabulary of {VOCABULARY}", "--ids=1,-1")
    expect_refusal(program, directory, f"{VOCABULARY} is outside the vocabulary", f"--ids={VOCABULARY}")
    expect_refusal(program, directory, '--ids: "" is not a number', "--ids", "")
    for place, fragment in (
        ("nowhere/logits", "cannot create the file"),
        ("model.safetensors", "this file is read"),
        ("config.json", "this file is read"),
    ):
        expect_refusal(program, directory, f"{place}: {fragment}", "--logits", str(directory / place))
    expect_refusal(program, directory, "excludes", "--from-ram", "--resident")
    expect_refusal(program, directory, "excludes", "--prompt", "text")  # beside --ids
    process = subprocess.run([program, directory, "--prompt", "text"], capture_output=True, text=True, check=False)
    good = process.returncode == 2 and process.stderr.count("\n") == 1 and "give the prompt as --ids" in process.stderr
    expect(good, f"a text without a tokenizer is not refused: {process}")

    config_path = directory / "config.json"
    config = json.loads(config_path.read_text())
    for changes, fragment in (
        ({"num_hidden_layers": 5}, "config.json says 5 layers, the weights have 4"),
        ({"hidden_size": 72}, "shape"),
        ({"attention_bias": True}, "missing"),
        ({"num_attention_heads": 0}, '"num_attention_heads" is 0'),
        ({"vocab_size": 1 << 60}, '"vocab_size" is 1152921504606846976'),
        ({"model_type": "gpt2"}, '"model_type" is "gpt2"'),
    ):
        config_path.write_text(json.dumps({**config, **changes}))
        expect_refusal(program, directory, fragment)
    config_path.write_text(json.dumps(config))

    weights_path = directory / "model.safetensors"
    weights = load_file(weights_path)
    for missing in ("model.layers.2.mlp.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"):
        save_file({name: tensor for name, tensor in weights.items() if name != missing}, weights_path)
        expect_refusal(program, directory, missing)


def main():
    program = sys.argv[1]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as directory:
        for case in CASES:
            check(program, pathlib.Path(directory) / case[0], *case)
        for case in ROTARY_CASES:
            check_rotary(program, pathlib.Path(directory) / case[0], *case)
        check_output(program, pathlib.Path(directory) / "output")
        check_refusals(program, pathlib.Path(directory) / "refused")
    sys.exit("\n".join(failures) or 0)


if __name__ == "__main__":
    main()
