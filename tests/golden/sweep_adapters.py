"""Adapters for the sweep: what LoraConfig can say of a base, drawn by a seed and written by peft's save_pretrained."""

import copy
import dataclasses
import pathlib
import random
import re
import shutil
import zlib

import torch
from peft import BdLoraConfig, LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper

import oracle
from variants import scale_of

EMBEDDING, HEAD = "embed_tokens", "lm_head"


@dataclasses.dataclass
class Drawn:
    """One adapter: LoraConfig's arguments, and how it is saved."""

    lora: dict
    seed: int
    stored: torch.dtype = torch.float32
    converts_all: bool = False  # `stored` is of all that was trained, not of A and B alone.
    pickle: bool = False
    save_embeddings: object = "auto"
    converted: bool = False
    own_tokens: int = 0
    strength: float = 0.8


def linears(model) -> list:
    """Paths of what LoRA can be put on, without embedding and head."""
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and HEAD not in name]


def some(rng: random.Random, items, most: int = 4) -> list:
    items = sorted(items)
    return rng.sample(items, rng.randint(1, min(most, len(items))))


def ends(rng: random.Random, path: str) -> str:
    """The path, or what it ends with."""
    parts = path.split(".")
    return ".".join(parts[-rng.choice([1, 1, 1, 2, 2, 3, 4, len(parts)]):])


def expression(rng: random.Random, paths: list) -> str:
    """A regular expression of the kinds that people write."""
    leaves = sorted({path.split(".")[-1] for path in paths})
    blocks = sorted({path.split(".")[-2] for path in paths if "layers" in path})
    leaf = "|".join(some(rng, leaves))
    return rng.choice([
        rf".*\.({leaf})", rf".*\.(?:{leaf})$", rf".*\.layers\.[0-1]\..*({leaf})", rf".*\.(\d+)\.[a-z_]+\.({leaf})",
        rf"^model\..*\.{rng.choice(blocks)}\.({leaf})", rf".*{rng.choice(leaves)}", rf".*\.{rng.choice(leaves)[0]}\w+",
        rf"(?i).*\.({leaf})".replace(leaf, leaf.upper()), rf".*layers\.1\.(\w+\.)*({leaf})",
    ])


def pattern_key(rng: random.Random, paths: list) -> str:
    """A key of rank_pattern or alpha_pattern: an end, a whole path, or an expression."""
    path = rng.choice(paths)
    parts = path.split(".")
    return rng.choice([
        ends(rng, path), path, re.escape(path), f"^{path}", f".*{parts[-1]}", f"{parts[-1]}|{rng.choice(paths).split('.')[-1]}",
        rf".*\.layers\.\d+\..*{parts[-1][0]}.*", r".*layers\.1.*", parts[-1][:-1] + ".", f"({parts[-1]})", f"{parts[-1]}$", ".*",
    ])


def patterns(rng: random.Random, paths: list, values) -> dict:
    return {pattern_key(rng, paths): rng.choice(values) for _ in range(rng.randint(1, 4))}


def targets(rng: random.Random, paths: list) -> dict:
    roll = rng.random()
    if roll < 0.12:
        return {"target_modules": "all-linear"}
    if roll < 0.27:
        return {"target_modules": expression(rng, paths)}
    if roll < 0.3:
        return {"target_modules": None}
    names = [ends(rng, path) for path in some(rng, paths)]
    names += [EMBEDDING] * (rng.random() < 0.15) + [HEAD] * (rng.random() < 0.15)
    out = {"target_modules": sorted(set(names))}
    if rng.random() < 0.2:
        out["layers_to_transform"] = rng.choice([0, 1, [1], [0, 1], [0, 7], []])
        if out["layers_to_transform"] != [] and rng.random() < 0.5:
            out["layers_pattern"] = rng.choice(["layers", ["layers"], ["blocks", "layers"], [], r"l\w+"])
    return out


def excluded(rng: random.Random, paths: list) -> dict:
    return {"exclude_modules": rng.choice([[ends(rng, path) for path in some(rng, paths, 2)], expression(rng, paths)])}


def modules_to_save(rng: random.Random, model) -> dict:
    norms = {name.split(".")[-1] for name, _ in model.named_modules() if "norm" in name.split(".")[-1]}
    choices = [[EMBEDDING], [HEAD], [EMBEDDING, HEAD], *[[norm] for norm in sorted(norms)], ["norm", HEAD]]
    return {"modules_to_save": rng.choice(choices)}


def trainable_tokens(rng: random.Random, vocabulary: int) -> dict:
    tokens = rng.sample(range(vocabulary), rng.randint(1, 6))
    other = rng.sample(range(vocabulary), 3)
    return {"trainable_token_indices": rng.choice([tokens, tokens, {EMBEDDING: tokens}, {EMBEDDING: tokens, HEAD: other},
                                                   {EMBEDDING: tokens, HEAD: tokens}, {HEAD: other}])}


def experts(rng: random.Random, model) -> dict:
    names = sorted({name for name, parameter in model.named_parameters() if "experts." in name or "gate.weight" in name})
    return {"target_parameters": sorted({ends(rng, name) for name in some(rng, names, 3)} - {"weight"})}


def draw(rng: random.Random, model) -> Drawn:
    """Few things at a time: two or three of the parts besides target, rank and scale."""
    paths = linears(model)
    # A rank that is wrong must be seen: alpha and r are no multiples of each other.
    lora = {"r": rng.choice([1, 2, 3, 4, 5, 8, 13, 20]), "lora_alpha": rng.choice([1, 3, 7, 8, 16, 2.75])}
    lora |= targets(rng, paths)
    drawn = Drawn(lora, rng.randrange(1 << 20), strength=rng.choice([0.4, 0.8, 1.2]))
    is_routed = any("experts" in name for name, _ in model.named_parameters())

    def if_chance(chance: float, make) -> None:
        if rng.random() < chance:
            lora.update(make())

    if_chance(0.3, lambda: {"use_rslora": True})
    if_chance(0.3, lambda: {"rank_pattern": patterns(rng, paths, [1, 2, 6, 9])})
    if_chance(0.3, lambda: {"alpha_pattern": patterns(rng, paths, [1, 3.5, 5, 24])})
    if_chance(0.15, lambda: excluded(rng, paths))
    if_chance(0.25, lambda: {"use_dora": True})
    if_chance(0.1, lambda: {"lora_bias": True})
    if_chance(0.2, lambda: {"bias": rng.choice(["all", "lora_only"])})
    if_chance(0.2, lambda: modules_to_save(rng, model))
    if_chance(0.15, lambda: trainable_tokens(rng, model.config.vocab_size))
    if_chance(0.1, lambda: {"ensure_weight_tying": True})
    if_chance(0.08, lambda: {"fan_in_fan_out": True})
    if_chance(0.05, lambda: {"lora_dropout": 0.3})
    if_chance(0.2, lambda: {"init_lora_weights": rng.choice(["gaussian", False, "pissa", "olora", "orthogonal", "pissa", "olora"])})
    if_chance(0.1, lambda: {"alora_invocation_tokens": [rng.randrange(3, 20) for _ in range(rng.randint(1, 3))]})
    if_chance(0.05, lambda: {"use_bdlora": BdLoraConfig(
        target_modules_bd_a=["o_proj", "down"], target_modules_bd_b=["q_proj", "k_proj", "v_", "gate", "up"], nblocks=rng.choice([1, 2]),
        match_strict=rng.random() < 0.5)})
    if is_routed:
        if_chance(0.5, lambda: experts(rng, model))
        if "target_parameters" in lora and rng.random() < 0.3:
            lora.update({"target_modules": None})
    if lora.get("init_lora_weights") in ("pissa", "olora"):
        drawn.converted = rng.random() < 0.4
    if rng.random() < 0.3:
        drawn.stored, drawn.converts_all = rng.choice([torch.bfloat16, torch.float16]), rng.random() < 0.5
    drawn.pickle = rng.random() < 0.1
    drawn.save_embeddings = rng.choice(["auto", "auto", "auto", False, True])
    if rng.random() < 0.1:
        drawn.own_tokens = rng.randint(1, 5)
        if rng.random() < 0.5:
            lora["modules_to_save"] = [EMBEDDING, HEAD]
    return drawn


@torch.no_grad()
def randomise(model, drawn: Drawn) -> None:
    """New values for all that peft would train, so that each part moves the answers and none is out of proportion."""
    def noise(name: str, like) -> torch.Tensor:
        generator = torch.Generator().manual_seed(drawn.seed * 2**32 + zlib.crc32(name.encode()))
        return torch.randn(like.shape, generator=generator)

    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner = modules[name.split(".lora_")[0]] if ".lora_" in name else None
        if owner is not None and not getattr(owner, "r", {}).get("default"):
            continue
        if owner is not None:
            scale, rank = abs(scale_of(owner)) or 1.0, owner.r["default"]
            weight = owner.get_param() if isinstance(owner, ParamWrapper) else owner.base_layer.weight
        if "lora_A" in name or "lora_embedding_A" in name:
            parameter.copy_(noise(name, parameter) * (1.0 if "embedding" in name else parameter.shape[1] ** -0.5))
        elif name.endswith("bias") and owner is not None:
            parameter.copy_(0.3 * drawn.strength / scale * noise(name, parameter))
        elif "lora_B" in name or "lora_embedding_B" in name:
            inputs = 1.0 if "embedding" in name else owner.lora_A["default"].weight.shape[1] ** -0.5
            width = max(weight.float().std().item(), 0.05)  # PiSSA of full rank leaves nothing but rounding of it
            parameter.copy_(drawn.strength * width / (scale * rank**0.5 * inputs) * noise(name, parameter))
        elif "lora_magnitude_vector" in name:
            parameter.mul_(1 + 0.3 * drawn.strength * noise(name, parameter).clamp(-2, 2))
        elif parameter.requires_grad and parameter.dim() == 1:
            parameter.add_(0.3 * drawn.strength * noise(name, parameter))
        elif parameter.requires_grad:
            parameter.add_(0.5 * parameter.std().nan_to_num(0.1) * drawn.strength * noise(name, parameter))


def write(drawn: Drawn, model_dir: pathlib.Path, folder: pathlib.Path):
    """The folder as peft leaves it; returns the model that was saved."""
    torch.manual_seed(drawn.seed)
    model = oracle.load(model_dir)
    if drawn.own_tokens:
        oracle.enlarge(model, model.config.vocab_size + drawn.own_tokens)
    peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(drawn.lora)))
    initial = folder.parent / f"{folder.name}-initial"  # The last part becomes an adapter's name, which has no dots.
    if drawn.converted:
        config = peft_model.peft_config["default"]
        start, config.init_lora_weights = config.init_lora_weights, True
        peft_model.save_pretrained(initial)
        config.init_lora_weights = start
    randomise(peft_model, drawn)
    if drawn.stored != torch.float32:
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name or (drawn.converts_all and parameter.requires_grad):
                parameter.data = parameter.data.to(drawn.stored)
    peft_model.save_pretrained(folder, save_embedding_layers=drawn.save_embeddings, safe_serialization=not drawn.pickle,
                               path_initial_model_for_weight_conversion=initial if drawn.converted else None)
    shutil.rmtree(initial, ignore_errors=True)
    (folder / "README.md").unlink(missing_ok=True)
    return peft_model.float().eval()
