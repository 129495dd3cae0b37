"""MoE-PEFT's models with transformers' attention, where its own differs. FFNs, linears and adapters are left as they are.

Its eager attention has no window, but for Gemma 2's. Its Phi calls the rotation as it was before transformers 4.46: that
fails. Its Phi-3 turns whole heads, and reads the factors from the configs of before transformers 5: that fails too.
`require_base_answers` holds what comes out against the base's own golden answers, which are of a newer transformers.
"""

import functools
import math

import torch
from moe_peft import LLMModel
from moe_peft.models import modeling_phi3
from transformers.models.phi3.modeling_phi3 import rotate_half

import oracle

TOLERANCE = 5e-5  # Of a log-probability.


def readable(config: dict) -> dict:
    """What transformers 4.46 reads of a config that it would refuse."""
    return config | {"rope_scaling": None} if config["model_type"] == "phi3" else config


def load(folder: str, config: dict, dtype: torch.dtype = torch.float32) -> LLMModel:
    """The model of a folder that holds readable(config)."""
    kind = config["model_type"]
    model = LLMModel.from_pretrained(folder, device="cpu", load_dtype=dtype, use_sliding_window=kind == "gemma2")
    inner = model.model_
    if kind in ("mistral", "phi3") and config["sliding_window"]:
        inner.causal_mask = functools.partial(windowed, inner.causal_mask, config["sliding_window"])
    if kind == "phi":
        inner.rotary_embed = inner.rotary_emb_.forward
    if kind == "phi3":
        inner.rotary_embed = functools.partial(long_rope, config)
        modeling_phi3.apply_rotary_pos_emb = turn_front
    return model


def windowed(mask_of, window: int, *args) -> torch.Tensor:
    mask = mask_of(*args)
    too_far = torch.ones_like(mask, dtype=torch.bool).tril(diagonal=-window)
    return mask.masked_fill(too_far, torch.finfo(mask.dtype).min)


def long_rope(config: dict, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [1, length, turned dimensions]; the length chooses among the factors."""
    scaling, trained = config["rope_scaling"], config["original_max_position_embeddings"]
    assert scaling["rope_type"] == "longrope"
    factors = torch.tensor(scaling["long_factor" if positions.shape[1] > trained else "short_factor"])
    turned = 2 * len(factors)
    frequencies = 1.0 / (factors * config["rope_theta"] ** (torch.arange(0, turned, 2).float() / turned))
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    attention = math.sqrt(1 + math.log(config["max_position_embeddings"] / trained) / math.log(trained))
    return angles.cos() * attention, angles.sin() * attention


def turn_front(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *_) -> tuple:
    """Turns as many dimensions of each head as cos has."""
    def turn(x: torch.Tensor) -> torch.Tensor:
        front, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        return torch.cat((front * cos[:, None] + rotate_half(front) * sin[:, None], rest), dim=-1)

    return turn(q), turn(k)


def require_base_answers(model, cases: list) -> None:
    """Of `model` without an adapter, against a base's cases.json."""
    for case in cases:
        if case["adapter"]:
            continue
        answer = oracle.answer(model, case["prompt"], case["max_tokens"])
        ours, theirs = answer.prompt_logprobs + answer.logprobs, case["prompt_logprobs"] + case["logprobs"]
        distance = max(abs(a - b) for a, b in zip(ours, theirs))
        if answer.tokens != case["tokens"] or distance > TOLERANCE:
            raise SystemExit(f"{case['name']}: MoE-PEFT's model is not transformers': {distance:.6f}")
