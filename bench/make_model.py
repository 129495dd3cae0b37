#!/usr/bin/env python3
"""Writes a base model and adapters with random weights, for benchmarks: bf16, Llama's shape, a word for each token.

  bench/make_model.py --shape=135m --adapters=32:8:q,k,v,o --adapters=32:8,16,32,64:all OUT

makes OUT/135m (the base) and OUT/135m-lora-r8-qkvo/lora-0 ... (one folder of adapters for each --adapters, given as
COUNT:RANKS:TARGETS, ranks taken in turn). What is there already is left as it is. Needs Python alone.
"""

import argparse
import json
import pathlib
import random
import struct

SHAPES = {
    # HuggingFaceTB/SmolLM-135M
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    # TinyLlama/TinyLlama-1.1B
    "1.1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
             "num_key_value_heads": 4, "vocab_size": 32000, "tie_word_embeddings": False},
}
ALL_TARGETS = ["q", "k", "v", "o", "gate", "up", "down"]


def head_dim(shape):
    return shape["hidden_size"] // shape["num_attention_heads"]


def linear_shapes(shape):
    """{target: (module path, out features, in features)} of one layer."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    kv = shape["num_key_value_heads"] * head_dim(shape)
    return {"q": ("self_attn.q_proj", hidden, hidden), "k": ("self_attn.k_proj", kv, hidden),
            "v": ("self_attn.v_proj", kv, hidden), "o": ("self_attn.o_proj", hidden, hidden),
            "gate": ("mlp.gate_proj", inner, hidden), "up": ("mlp.up_proj", inner, hidden),
            "down": ("mlp.down_proj", hidden, inner)}


def random_bf16(count, generator):
    """Bytes of `count` values of either sign between 2^-11 and 2^-3, most of them near 0.015."""
    # The high byte of a bf16 is its sign and seven of eight exponent bits, the low byte the rest: any bits will do.
    exponents = [60] * 76 + [59] * 38 + [58] * 14
    high = bytes(sign | exponent for exponent in exponents for sign in (0, 0x80))
    values = bytearray(2 * count)
    values[0::2] = generator.randbytes(count)
    values[1::2] = generator.randbytes(count).translate(high)
    return values


def ones_bf16(count):
    return struct.pack("<H", 0x3F80) * count


def write_safetensors(path, tensors):
    """`tensors` is a list of (name, shape, function that makes the bytes)."""
    header, at = {}, 0
    for name, shape, _ in tensors:
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, make in tensors:
            file.write(make())


def write_tokenizer(folder, vocab_size):
    """Word w<i> is token i, but for the two that end and begin a text."""
    names = {0: "<unk>", 1: "<s>", 2: "</s>"}
    vocab = {names.get(i, f"w{i}"): i for i in range(vocab_size)}
    special = [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i, name in names.items()]
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
                 "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
                 "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
              "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_base(folder, shape, generator):
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "bfloat16",
              "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1,
              "eos_token_id": 2, "attention_bias": False, "mlp_bias": False, "head_dim": head_dim(shape), **shape}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    write_tokenizer(folder, shape["vocab_size"])

    hidden, vocab = shape["hidden_size"], shape["vocab_size"]
    tensors = []

    def matrix(name, rows, columns):
        tensors.append((name, [rows, columns], lambda: random_bf16(rows * columns, generator)))

    def norm(name):
        tensors.append((name, [hidden], lambda: ones_bf16(hidden)))

    matrix("model.embed_tokens.weight", vocab, hidden)
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        norm(prefix + "input_layernorm.weight")
        norm(prefix + "post_attention_layernorm.weight")
        for module, rows, columns in linear_shapes(shape).values():
            matrix(f"{prefix}{module}.weight", rows, columns)
    norm("model.norm.weight")
    if not shape["tie_word_embeddings"]:
        matrix("lm_head.weight", vocab, hidden)
    write_safetensors(folder / "model.safetensors", tensors)


def write_adapter(folder, base, shape, rank, targets, generator):
    folder.mkdir(parents=True)
    linears = linear_shapes(shape)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": rank,
              "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
              "inference_mode": True, "target_modules": [linears[target][0].split(".")[1] for target in targets]}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
    tensors = []
    for layer in range(shape["num_hidden_layers"]):
        for target in targets:
            module, out_features, in_features = linears[target]
            name = f"base_model.model.model.layers.{layer}.{module}"
            for part, extents in (("lora_A", [rank, in_features]), ("lora_B", [out_features, rank])):
                count = extents[0] * extents[1]
                tensors.append((f"{name}.{part}.weight", extents, lambda count=count: random_bf16(count, generator)))
    write_safetensors(folder / "adapter_model.safetensors", tensors)


def make_base(out, shape_name, seed=1):
    """The base's folder, written if it is not there."""
    folder = out / shape_name
    if not (folder / "model.safetensors").exists():
        partial = out / f"{shape_name}.partial"
        write_base(partial, SHAPES[shape_name], random.Random(seed))
        partial.rename(folder)
    return folder


def make_adapters(out, shape_name, count, ranks, targets, seed=2):
    """The folder that holds the adapters lora-0 ... lora-<count - 1>; those that are missing are written."""
    targets = ALL_TARGETS if targets == ["all"] else targets
    which = "all" if targets == ALL_TARGETS else "".join(targets)
    root = out / f"{shape_name}-lora-r{'-'.join(map(str, ranks))}-{which}"
    for i in range(count):
        folder = root / f"lora-{i}"
        if folder.exists():
            continue
        partial = root / f"lora-{i}.partial"
        rank = ranks[i % len(ranks)]
        write_adapter(partial, out / shape_name, SHAPES[shape_name], rank, targets, random.Random(seed * 1000003 + i))
        partial.rename(folder)
    return root


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--adapters", action="append", default=[], metavar="COUNT:RANKS:TARGETS")
    arguments = parser.parse_args()
    print(make_base(arguments.out, arguments.shape))
    for text in arguments.adapters:
        count, ranks, targets = text.split(":")
        print(make_adapters(arguments.out, arguments.shape, int(count), [int(rank) for rank in ranks.split(",")],
                            targets.split(",")))


if __name__ == "__main__":
    main()
