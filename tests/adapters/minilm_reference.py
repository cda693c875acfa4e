"""Compares the minilm example with Hugging Face transformers on the same weights.

Usage: minilm_reference.py MINILM_PROGRAM MODEL_DIR

Exit codes: 0 they agree; 77 skipped, because transformers or the model is not installed; others: they differ, or an error.
"""

import json
import subprocess
import sys

try:
    import numpy
    import torch
    from transformers import AutoModel, AutoTokenizer
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

MAX_TOKENS = 256  # as in the model's sentence_bert_config.json

SENTENCES = [
    "A man is eating food.",
    "The new movie is awesome; I really enjoyed that film!",
    "",
    "   leading, trailing and \t inner \n whitespace \u00a0 and \u2003 wide ones\u2028 ",
    "Ünïcödé àccénts: naïve café, Ångström, Đà Nẵng, İstanbul, ŒUVRE, ẞtraße",
    "combining marks: e\u0301 o\u0308 n\u0303 \u0301alone",
    "汉字和日本語のテキスト、ひらがな・カタカナ。",
    "한국어 문장도 있습니다",
    "mixed中文English混合",
    "punctuation: don't—won't… “quotes” «guillemets» ¿qué? ¡sí! a.b,c;d:e/f\\g|h",
    "ASCII symbols $100 + 5% = ^caret `tick` ~tilde <tag> @home #hash_tag [x] {y}",
    "currency and maths: €5 £6 ¥7 × ÷ ± ≤ ∑ √ ∞ © ® ™ °C",
    "emoji 😀👍🏽 family 👨‍👩‍👧 flag 🇩🇪 end",
    "zero\u200bwidth soft\u00adhyphen \ufeffbom bell\u0007 replacement\ufffd null",
    "supercalifragilisticexpialidocious antidisestablishmentarianism unaffable",
    "x" * 100 + " " + "y" * 101,
    "numbers 3.14159 1,000,000 2024-01-01 12:34:56 0x1F ²³ ½ Ⅷ ①",
    "ΑΒΓ ΣΊΣΥΦΟΣ Привет, мир! שלום עולם مرحبا بالعالم नमस्ते दुनिया สวัสดี",
    "ﬁligature ﬀ ＡＢＣ full－width ﷺ",
    "𝒜 mathematical 𝔘nicode 𠀀 rare ideograph 豈 compatibility",
    "[brackets] are plain, and so is the word CLS",
    "long " * 400,
]


def embed(model, ids, mask):
    """Mean over the tokens that count, scaled to length 1."""
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1))


def run_minilm(program, model_directory):
    arguments = [program, model_directory, "--json", "--passes", "1", "--device", "cpu"]
    for sentence in SENTENCES:
        arguments += ["--sentence", sentence]
    process = subprocess.run(arguments, capture_output=True, text=True, encoding="utf-8", check=False)
    if process.returncode != 0:
        sys.exit(f"minilm ended with {process.returncode}: {process.stderr}")
    return json.loads(process.stdout)


def main():
    program, model_directory = sys.argv[1:]
    result = run_minilm(program, model_directory)
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    model = AutoModel.from_pretrained(model_directory).eval()
    failures = []

    encoded = tokenizer(SENTENCES, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    for sentence, row, mask, ours in zip(
        SENTENCES, encoded["input_ids"].tolist(), encoded["attention_mask"].tolist(), result["token_ids"], strict=True
    ):
        theirs = row[: sum(mask)]
        if theirs != ours:
            failures.append(
                f"tokens of {sentence!r}:\n  {tokenizer.convert_ids_to_tokens(theirs)}\n"
                f"  {tokenizer.convert_ids_to_tokens(ours)}"
            )

    with torch.no_grad():
        expected = embed(model, encoded["input_ids"], encoded["attention_mask"]).numpy()
    for run in result["runs"]:
        actual = numpy.array(run["embeddings"], dtype=numpy.float32)
        cosine = float((actual * expected).sum(axis=1).min())
        difference = float(abs(actual - expected).max())
        print(f"{run['name']}: smallest cosine {cosine:.8f}, largest difference {difference:.2e}")
        if not (cosine > 0.99999 and difference < 1e-4):
            failures.append(f"embeddings of run {run['name']!r} differ")

    if not result["bit_equal"]:
        failures.append("the runs are not bit-equal")
    streamed = [run for run in result["runs"] if "slots" in run]
    if len(streamed) != 2:
        failures.append(f"{len(streamed)} streamed runs instead of 2")
    for run in streamed:
        read = run["passes"][-1]["bytes"]
        if run["budget"]["gpu"] >= result["weight_bytes"] or read["disk"] + read["page_cache"] == 0:
            failures.append(f"run {run['name']!r} did not stream")

    print(f"{len(SENTENCES)} sentences compared")
    sys.exit("\n".join(failures) or 0)


if __name__ == "__main__":
    main()
