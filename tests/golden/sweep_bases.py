"""Bases for the sweep: those of bases.py with other sizes and constants, drawn by a seed."""

import copy
import dataclasses
import pathlib
import random

import torch
from transformers import GenerationConfig

import bases
from files import read_json, write_json

CONTEXT = 160  # A sweep's prompts and answers stay below.


def choose(rng: random.Random, likely, *others):
    """Mostly the first."""
    return likely if rng.random() < 0.5 else rng.choice(others)


def rope(rng: random.Random, kinds: tuple) -> dict:
    """rope_parameters of a kind, its optional constants there or not."""
    kind = rng.choice(kinds)
    values = {"rope_type": kind, "rope_theta": rng.choice([300.0, 5000.0, 10000.0, 1e6])}
    if kind == "linear":
        values["factor"] = rng.choice([1.5, 4.0])
    elif kind == "dynamic":
        values["factor"] = rng.choice([4.0, 6.0])
    elif kind == "yarn":
        values |= {"factor": rng.choice([2.0, 4.0, 5.5]), "original_max_position_embeddings": rng.choice([32, 64])}
        optional = {"beta_fast": 2.0, "beta_slow": 0.5, "attention_factor": 1.3, "truncate": False}
        values |= {key: value for key, value in optional.items() if rng.random() < 0.3}
        if rng.random() < 0.3:
            values |= {"mscale": 0.8, "mscale_all_dim": rng.choice([0.5, 1.0])}
    elif kind == "llama3":
        values |= {"factor": 8.0, "low_freq_factor": rng.choice([1.0, 2.0]), "high_freq_factor": 4.0,
                   "original_max_position_embeddings": rng.choice([32, 64])}
    return values


ROPES = ("default", "default", "linear", "yarn", "llama3", "dynamic")


def attention(rng: random.Random, own_head_dim: bool) -> dict:
    kv_heads, per_kv = rng.choice([1, 2, 3]), rng.choice([1, 2, 3, 4])
    heads, head_dim = kv_heads * per_kv, rng.choice([6, 8, 10, 16])
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": heads * head_dim}
    if own_head_dim:
        sizes |= {"head_dim": head_dim, "hidden_size": heads * rng.choice([4, 7, head_dim, 12])}
    return sizes


def layer_types(rng: random.Random, layers: int) -> list:
    return [rng.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]


def llama(rng):
    changes = attention(rng, rng.random() < 0.5) | {
        "attention_bias": rng.random() < 0.4, "mlp_bias": rng.random() < 0.4, "rope_parameters": rope(rng, ROPES)}
    if changes["rope_parameters"]["rope_type"] == "dynamic":
        changes["max_position_embeddings"] = 32
    return changes


def mistral(rng):
    return attention(rng, True) | {"sliding_window": rng.choice([None, 5, 17, 250]), "rope_parameters": rope(rng, ROPES[:4])}


def qwen2(rng):
    layers, slides = rng.choice([2, 3]), rng.random() < 0.5
    return attention(rng, False) | {
        "num_hidden_layers": layers, "use_sliding_window": slides, "sliding_window": 7 if slides else None,
        "max_window_layers": rng.randrange(layers) if slides else layers, "layer_types": None, "rope_parameters": rope(rng, ROPES[:4])}


def qwen3(rng):
    return attention(rng, True) | {"attention_bias": rng.random() < 0.4, "rope_parameters": rope(rng, ROPES[:4])}


def gemma(rng):
    return attention(rng, True) | {"rope_parameters": rope(rng, ROPES[:2])}


def gemma2(rng):
    return attention(rng, True) | {
        "num_hidden_layers": 3, "layer_types": layer_types(rng, 3), "sliding_window": rng.choice([4, 12]),
        "query_pre_attn_scalar": rng.choice([9, 16, 30]), "attn_logit_softcapping": choose(rng, 4.0, None),
        "final_logit_softcapping": choose(rng, 7.0, None)}


def gemma3(rng):
    return attention(rng, True) | {"layer_types": layer_types(rng, 3), "sliding_window": rng.choice([4, 12]),
                                   "query_pre_attn_scalar": rng.choice([9, 16])}


def phi(rng):
    heads, head_dim = rng.choice([2, 3, 4]), rng.choice([10, 20])
    return {"num_attention_heads": heads, "num_key_value_heads": heads, "hidden_size": heads * head_dim,
            "rope_parameters": bases.rope(10000.0, partial_rotary_factor=rng.choice([0.4, 0.6]))}


def phi3(rng):
    sizes = attention(rng, False)
    rotated = sizes["hidden_size"] // sizes["num_attention_heads"]
    factors = {key: [round(rng.uniform(1, 6), 2) for _ in range(rotated // 2)] for key in ("short_factor", "long_factor")}
    longrope = bases.rope(10000.0) | factors | {
        "rope_type": "longrope", "partial_rotary_factor": 1.0, "original_max_position_embeddings": 48}
    return sizes | {"sliding_window": rng.choice([None, 9, 70]), "rope_parameters": longrope}


def opt(rng):
    heads = rng.choice([1, 2, 4])
    hidden = heads * rng.choice([10, 12, 16])
    before = rng.random() < 0.7
    return {"num_attention_heads": heads, "hidden_size": hidden, "word_embed_proj_dim": rng.choice([hidden, hidden, 22]),
            "ffn_dim": rng.choice([52, 76]), "do_layer_norm_before": before, "enable_bias": rng.random() < 0.7,
            "layer_norm_elementwise_affine": rng.random() < 0.8, "activation_function": choose(rng, "relu", "gelu"),
            "_remove_final_layer_norm": rng.random() < 0.2}


def routed(rng):
    return attention(rng, False) | {"num_experts_per_tok": rng.choice([1, 2, 3])}


CHANGES = {
    "llama3": llama, "llama2": llama, "llama_linear": llama, "mistral": mistral, "qwen2": qwen2, "qwen3": qwen3, "opt": opt,
    "phi": phi, "gemma": gemma, "gemma2": gemma2, "gemma3": gemma3, "phi3": phi3, "mixtral": routed, "qwen2_moe": routed,
    "qwen3_moe": routed,
}


def draw(rng: random.Random, name: str | None = None) -> bases.Base:
    name = name or rng.choice(list(CHANGES))
    base = next(each for each in bases.BASES if each.name == name)
    changes = {"vocab_size": rng.randrange(64, 140), "tie_word_embeddings": rng.random() < 0.5, "max_position_embeddings": CONTEXT}
    changes |= CHANGES[name](rng)
    if name != "opt":
        changes["intermediate_size"] = rng.choice([36, 52, 60, 76])
    if name in ("gemma", "gemma2", "gemma3"):
        changes["tie_word_embeddings"] = True
    if name == "phi":
        changes["tie_word_embeddings"] = False  # Its head has a bias.
    written = {key: value for key, value in base.config.to_dict().items() if key not in changes}
    stored = choose(rng, torch.float32, torch.bfloat16, torch.float16)
    style = rng.choice([4, 5])
    return dataclasses.replace(
        base, config=type(base.config)(**copy.deepcopy(written) | changes), seed=rng.randrange(1 << 20), stored=stored, added={},
        left_out=(), config_style=style, max_shard="5GB", must_matter={})


def write(base: bases.Base, model_dir: pathlib.Path) -> None:
    """As save_pretrained leaves it, in the old spelling where that can say the same."""
    model = base.model_class(copy.deepcopy(base.config))
    bases.draw_weights(model, base.seed)
    model = model.to(base.stored)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2)
    model.save_pretrained(model_dir)
    if base.config_style == 4:
        new = read_json(model_dir / "config.json")
        old = bases.version_4_spelling(new, ())
        try:
            bases.require_same_reading(new, old)
        except (SystemExit, ValueError, KeyError):
            return
        write_json(model_dir / "config.json", old)
