"""Writes a Llama of random weights, as a Hugging Face directory, with nothing but torch.

Larger ones than transformers would make in reasonable time and memory: layer by layer, on a GPU if there is one.
"""

import argparse
import json
import pathlib
import struct

import torch


def shapes_of(args):
    """Every tensor's name and shape, in file order."""
    kv = args.hidden // args.heads * args.kv_heads
    yield "model.embed_tokens.weight", (args.vocab, args.hidden)
    for layer in range(args.layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (args.hidden,)
        yield prefix + "self_attn.q_proj.weight", (args.hidden, args.hidden)
        yield prefix + "self_attn.k_proj.weight", (kv, args.hidden)
        yield prefix + "self_attn.v_proj.weight", (kv, args.hidden)
        yield prefix + "self_attn.o_proj.weight", (args.hidden, args.hidden)
        yield prefix + "post_attention_layernorm.weight", (args.hidden,)
        yield prefix + "mlp.gate_proj.weight", (args.intermediate, args.hidden)
        yield prefix + "mlp.up_proj.weight", (args.intermediate, args.hidden)
        yield prefix + "mlp.down_proj.weight", (args.hidden, args.intermediate)
    yield "model.norm.weight", (args.hidden,)
    yield "lm_head.weight", (args.vocab, args.hidden)


def values(shape, generator):
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    made = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return (made * shape[1] ** -0.5).to(torch.bfloat16).cpu()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=14336)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=4096)
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": args.hidden,
        "intermediate_size": args.intermediate,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": args.vocab,
    }
    (args.directory / "config.json").write_text(json.dumps(config, indent=2))
    header, offset = {}, 0
    for name, shape in shapes_of(args):
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(1)
    with open(args.directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in shapes_of(args):
            file.write(values(shape, generator).view(torch.int16).numpy().tobytes())


if __name__ == "__main__":
    main()
