"""Compares LoRAs of streamed weights with Hugging Face peft, on adapters that peft itself makes, saves and loads.

Usage: lora_reference.py LLAMA_PROGRAM LORA_LOGITS_PROGRAM

For each adapter: the logits with it, at a strength, against peft's, both measured by peft in float64; without it,
before and after, the bits of the resident model; `llama --lora` gives the same bits, also at the least budget.

Exit codes: 0 they agree; 77 skipped, because peft or transformers is not installed; others: they differ, or an error.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

try:
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

VOCABULARY = 160
FLOAT32_FLOOR = 1e-5  # of the largest logit: what the order of sums may change
PATTERNS = {
    "rank_pattern": {"q_proj": 8, r"layers\.1\.mlp\.up_proj": 2},
    "alpha_pattern": {r"layers.[12].self_attn.v_proj": 3, "down_proj": 20},
}
ALL = {"target_modules": "all-linear"}
# name, what differs from rank 4 and alpha 12, strength, gpu budget: some layers stay, others are streamed
CASES = [
    ("attention", {"target_modules": ["q_proj", "v_proj"]}, 1.0, "600KiB"),
    ("all_linear", {**ALL, "use_rslora": True}, 0.3, "1400KiB"),
    ("patterns", {**ALL, **PATTERNS}, -0.7, "1400KiB"),
]
REFUSED = [
    ({"target_modules": ["q_proj"], "use_dora": True}, "asks for DoRA (use_dora)"),
    ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "(modules_to_save)"),
    ({"target_modules": ["q_proj"], "bias": "all"}, "biases (bias)"),
    ({"target_modules": ["lm_head"]}, "lm_head"),
    ({"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, "pissa"),
]

failures = []


def expect(holds, what):
    if not holds:
        failures.append(what)


def make_model(directory):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=None,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    model.save_pretrained(directory)


def load_model(directory):
    return transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def save_adapter(model_directory, directory, changes):
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 12, "init_lora_weights": False, **changes})
    peft.get_peft_model(load_model(model_directory), config).save_pretrained(directory)


def peft_logits(model_directory, directory, strength, ids, dtype):
    model = peft.PeftModel.from_pretrained(load_model(model_directory), directory).to(dtype).eval()
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for adapter in module.scaling:
                module.scaling[adapter] *= strength
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def run(*arguments):
    """Standard output."""
    process = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, check=False)
    if process.returncode != 0:
        sys.exit(f"{arguments[0]} ended with {process.returncode}: {process.stderr}")
    return process.stdout


def check(llama, lora_logits, model, adapter, ids, name, changes, strength, gpu):
    save_adapter(model, adapter, changes)
    ids_text = ",".join(map(str, ids))
    path = adapter / "logits.safetensors"
    budget = f"gpu={gpu},pinned=8MiB"
    moved = int(run(lora_logits, model, adapter, strength, budget, ids_text, path))
    expect(moved > 0, f"{name}: nothing was streamed")
    ours = load_file(path)

    reference = peft_logits(model, adapter, strength, ids, torch.float64)
    theirs = float((peft_logits(model, adapter, strength, ids, torch.float32) - reference).abs().max())
    error = float((ours["with"] - reference).abs().max())
    largest = float(reference.abs().max())
    change = float((ours["with"] - ours["before"]).abs().max())
    print(f"{name}: peft's error {theirs:.2e}, ours {error:.2e}, largest logit {largest:.1f}, changed by {change:.1f}")
    expect(error <= 2 * theirs + FLOAT32_FLOOR * largest, f"{name}: the error is {error}, peft's {theirs}")
    expect(change > 0.1 * largest, f"{name}: the adapter changes the logits by {change} only")

    def run_llama(label, *options):
        path = adapter / f"{label}.safetensors"  # a new one: what was loaded of others is a view of the file
        report = run(llama, model, "--ids", ids_text, "--device", "cpu", "--json", "--logits", path, *options)
        return json.loads(report), load_file(path)["logits"][: len(ids)]

    _, plain = run_llama("resident", "--resident")
    expect(torch.equal(ours["before"], plain), f"{name}: the logits before are not the resident model's")
    expect(torch.equal(ours["after"], plain), f"{name}: the logits after are not the resident model's")
    lora = f"{adapter}={strength}" if strength != 1 else adapter
    report, logits = run_llama("with", "--lora", lora, "--budget", budget)
    expect(torch.equal(logits, ours["with"]), f"{name}: llama --lora gives other logits")
    least = f"gpu={report['least']['gpu']},pinned={report['least']['pinned']}"
    short = f"gpu={report['least']['gpu'] - 1},pinned=8MiB"
    needs = rf"with this LoRA, gpu needs at least .*\b{report['least']['gpu']} bytes"
    expect_refusal(llama, model, needs, lora, "--budget", short)
    _, logits = run_llama("least", "--lora", lora, "--budget", least)
    expect(torch.equal(logits, ours["with"]), f"{name}: other logits at {least}")


def expect_refusal(llama, model, pattern, lora, *options):
    arguments = [llama, str(model), "--ids", "1,2", "--device", "cpu", "--lora", str(lora), *options]
    process = subprocess.run(arguments, capture_output=True, text=True, check=False)
    good = process.returncode == 2 and process.stderr.count("\n") == 1 and re.search(pattern, process.stderr)
    expect(good and process.stdout == "", f"not a refusal with {pattern!r}: {process}")


def main():
    llama, lora_logits = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        model = directory / "model"
        make_model(model)
        ids = torch.randint(0, VOCABULARY, (24,)).tolist()
        for case in CASES:
            check(llama, lora_logits, model, directory / case[0], ids, *case)
        for number, (changes, fragment) in enumerate(REFUSED):
            save_adapter(model, directory / f"refused{number}", changes)
            expect_refusal(llama, model, re.escape(fragment), directory / f"refused{number}")
        expect_refusal(llama, model, "is no strength of a LoRA", f"{directory / 'attention'}=much")
        expect_refusal(llama, model, "adapter_config.json", directory / "nothing")
    sys.exit("\n".join(failures) or 0)


if __name__ == "__main__":
    main()
