"""Folders that something happened to: each change is made to a copy of an adapter that is right."""

import json
import pathlib
import random
import re
import shutil

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SCALED_KEYS = ("lora_A", "lora_B", "lora_embedding", "magnitude")


def pick(rng: random.Random, tensors: dict) -> str:
    return rng.choice(sorted(name for name in tensors if any(key in name for key in SCALED_KEYS)))


def dropped(rng, tensors):
    name = pick(rng, tensors)
    del tensors[name]
    return name


def renamed(rng, tensors):
    name = pick(rng, tensors)
    tensors[name.replace(".lora_", ".lora_x_")] = tensors.pop(name)
    return name


def of_another_layer(rng, tensors):
    name = pick(rng, tensors)
    tensors[re.sub(r"layers\.(\d)|^base_model.model.(model.)?(?=lm|emb)", r"layers.9\1", name)] = tensors[name].clone()
    return name


def not_a_number(rng, tensors):
    name = pick(rng, tensors)
    tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = rng.choice([float("nan"), float("inf")])
    return name


def a_row_more(rng, tensors):
    name = pick(rng, tensors)
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    return name


def a_row_less(rng, tensors):
    name = pick(rng, tensors)
    tensors[name] = tensors[name][1:].contiguous()
    return name


def transposed(rng, tensors):
    name = pick(rng, tensors)
    if tensors[name].dim() != 2 or tensors[name].shape[0] == tensors[name].shape[1]:
        return dropped(rng, tensors)
    tensors[name] = tensors[name].T.contiguous()
    return name


def as_integers(rng, tensors):
    name = pick(rng, tensors)
    tensors[name] = tensors[name].to(rng.choice([torch.int32, torch.float64, torch.int8]))
    return name


TENSOR_CHANGES = (dropped, renamed, of_another_layer, not_a_number, a_row_more, a_row_less, transposed, as_integers)
# Some of these change nothing; then the answers must be peft's.
VALUES = (None, True, False, 0, 1, 3, -1, 2.5, "", "q_proj", "all", "none", "pissa", [], ["q_proj"], [1], {}, {"q_proj": 2}, [[0, 1]],
          {"q_proj": "x"}, 10**20, 1e-9, "all-linear", [None])


def damage_tensors(rng: random.Random, folder: pathlib.Path) -> tuple:
    """(what was done, what the error must name)"""
    tensors = load_file(folder / WEIGHTS)
    change = rng.choice(TENSOR_CHANGES)
    name = change(rng, tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    module = name.removeprefix("base_model.model.").split(".lora_")[0].removesuffix(".base_layer")
    return f"{change.__name__} {name}", module.replace("layers.0", "").replace("layers.1", "").split(".")[-1]


def damage_bytes(rng: random.Random, folder: pathlib.Path) -> tuple:
    path = folder / rng.choice([WEIGHTS, CONFIG])
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        content = content[: rng.randrange(len(content))]
    else:
        header = min(len(content), 8 + int.from_bytes(content[:8], "little")) if path.name == WEIGHTS else len(content)
        content[rng.randrange(header)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"bytes of {path.name}", ""


def damage_config(rng: random.Random, folder: pathlib.Path) -> tuple:
    config = json.loads((folder / CONFIG).read_text())
    key = rng.choice(sorted(config.keys() - {"modules_to_save"}))  # Without it, two tables of a tied base are there and unlike.
    if rng.random() < 0.2:
        del config[key]
        what = f"no {key}"
    else:
        config[key] = rng.choice(VALUES)
        what = f"{key}: {config[key]!r}"
    (folder / CONFIG).write_text(json.dumps(config))
    return what, ""


def damage(rng: random.Random, adapter: pathlib.Path, folder: pathlib.Path) -> tuple:
    """A damaged copy: (what was done, what the error must name, whether it must be refused)."""
    shutil.copytree(adapter, folder)
    has_tensors = (folder / WEIGHTS).exists()
    roll = rng.random()
    if has_tensors and roll < 0.45:
        return *damage_tensors(rng, folder), True
    if has_tensors and roll < 0.6:
        return *damage_bytes(rng, folder), False
    return *damage_config(rng, folder), False
