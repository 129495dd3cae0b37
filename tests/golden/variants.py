"""The adapter variants, and how each is made by peft from a base on disk."""

import collections
import copy
import dataclasses
import pathlib
import shutil
import zlib

import torch
from peft import BdLoraConfig, LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from safetensors.torch import load_file, save_file

import oracle
from files import read_json, write_json

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclasses.dataclass
class Variant:
    name: str
    lora: dict  # LoraConfig's arguments.
    stored: torch.dtype = torch.float32
    save_embeddings: object = "auto"
    edit_config: object = None  # dict -> dict, applied to adapter_config.json as peft wrote it.
    edit_key: object = None  # str -> str, applied to the names of the tensors.
    pickle: object = None  # dict -> what torch.save writes instead of safetensors; str: as peft itself does.
    edit_prompt: object = None  # list -> list, applied to the prompts that are drawn.
    converted: bool = False  # Saved with path_initial_model_for_weight_conversion.
    own_tokens: int = 0  # That the base's vocabulary is enlarged by.
    rows: list | None = None  # Of a saved table, those that differ from the base's; None: all.
    expect: str = ""  # "later": a server may refuse it by name for now.
    strength: float = 0.8  # Size of the update against the base weight's own output.


def lora(targets, r=4, alpha=8, **rest) -> dict:
    return dict(r=r, lora_alpha=alpha, target_modules=targets, **rest)


def set_keys(**values):
    return lambda config: config | values


def reorder(key, order):
    """Rewrites a pattern with its keys in an order that is not alphabetical, as a hand-written file may have them."""
    return lambda config: config | {key: {k: config[key][k] for k in order}}


QV = Variant("q_v", lora(["q_proj", "v_proj"], r=8, alpha=16))
ALL_LINEAR = Variant("all_linear", lora("all-linear", r=4, alpha=8))
SINGLES = [Variant(f"only_{name}", lora([name])) for name in LINEARS]
EMBEDDINGS = [
    Variant("embed_tokens", lora(["embed_tokens"])),
    Variant("lm_head", lora(["lm_head"])),
    Variant("embed_and_head", lora(["embed_tokens", "lm_head", "q_proj"], r=3, alpha=6)),
    Variant("embed_pair_only", lora(["embed_tokens", "v_proj"]), save_embeddings=False),
    Variant("head_pair_only", lora(["lm_head", "down_proj"]), save_embeddings=False),
]
TIED = Variant("ensure_weight_tying", lora(["embed_tokens", "q_proj"], ensure_weight_tying=True))
RSLORA = Variant("rslora", lora(["q_proj", "v_proj", "up_proj"], r=16, alpha=12, use_rslora=True))
PATTERNS = [
    # Alphabetical, because peft sorts the keys when it saves: the first one that matches wins.
    Variant("patterns", lora(
        LINEARS, r=6, alpha=9,
        rank_pattern={"layers.0.self_attn.q_proj": 2, "mlp.*": 3, "q_proj": 12, "self_attn.(k|v)_proj": 5},
        alpha_pattern={".*layers.1.*": 20, "gate_proj": 5, "model.layers.0.mlp.up_proj": 7, "q_proj|v_proj": 3.5},
    )),
    # "q_proj" comes before the narrower key that would win in a sorted file.
    Variant("patterns_file_order", lora(
        ["q_proj", "v_proj", "gate_proj"], r=4, alpha=8,
        alpha_pattern={"layers.0.self_attn.q_proj": 40, "q_proj": 4, "v_proj": 6, "self_attn.*": 1},
    ), edit_config=reorder("alpha_pattern", ["v_proj", "self_attn.*", "q_proj", "layers.0.self_attn.q_proj"]), strength=3.0),
    Variant("rslora_patterns", lora(
        ["k_proj", "o_proj", "down_proj"], r=4, alpha=8, use_rslora=True,
        rank_pattern={"down_proj": 9}, alpha_pattern={"o_proj": 2},
    )),
]
TARGETS = [
    Variant("layers_to_transform", lora(["q_proj", "up_proj"], layers_to_transform=[1])),
    Variant("layers_pattern", lora(["k_proj", "down_proj"], layers_to_transform=0, layers_pattern="layers")),
    Variant("target_regex", lora(r".*\.layers\.1\.(self_attn\.(q|v)_proj|mlp\.(gate|down)_proj)")),
    Variant("target_full_path", lora(["model.layers.0.self_attn.o_proj", "layers.1.mlp.up_proj"])),
    Variant("exclude_list", lora("all-linear", exclude_modules=["k_proj", "model.layers.0.mlp.down_proj"], r=2, alpha=4)),
    Variant("exclude_regex", lora(["q_proj", "o_proj"], exclude_modules=r".*layers\.0\..*q_proj")),
    Variant("all_linear_string", lora("all-linear", r=2, alpha=2), edit_config=set_keys(target_modules="all-linear")),
]
RANKS = [
    Variant("rank_1", lora(["q_proj", "k_proj", "v_proj", "o_proj"], r=1, alpha=1)),
    Variant("rank_80", lora(["q_proj", "down_proj"], r=80, alpha=16)),
    Variant("alpha_float", lora(["v_proj", "o_proj"], r=3, alpha=2.75)),
]
STORED = [
    Variant("stored_bf16", lora(LINEARS, r=4, alpha=8), stored=torch.bfloat16),
    Variant("stored_fp16", lora(["q_proj", "v_proj", "lm_head"], r=5, alpha=5), stored=torch.float16),
]
KEYS = [
    Variant("keys_without_prefix", lora(["q_proj", "gate_proj"]), edit_key=lambda k: k.removeprefix("base_model.model.")),
    Variant("keys_with_adapter_name", lora(["v_proj", "up_proj"]), edit_key=lambda k: k.replace(".weight", ".default.weight")),
]


def as_moe_peft_does(tensors: dict):
    """Parameters in an OrderedDict with attributes, as a state_dict has them."""
    ordered = collections.OrderedDict((k, torch.nn.Parameter(v)) for k, v in tensors.items())
    ordered._metadata = collections.OrderedDict(version=1)
    return ordered


def as_views(tensors: dict) -> dict:
    """Every second tensor is stored transposed; the others lie one after the other in one storage, after a gap."""
    flat = torch.cat([torch.zeros(3), *(v.reshape(-1) for v in tensors.values())])
    views, at = {}, 3
    for i, (name, tensor) in enumerate(tensors.items()):
        views[name] = tensor.T.contiguous().T if i % 2 else flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    return views


PICKLED = [
    Variant("pickled", lora(["q_proj", "down_proj", "embed_tokens"]), pickle="peft"),
    Variant("pickled_parameters", lora(["k_proj", "gate_proj"]), pickle=as_moe_peft_does),
    Variant("pickled_views", lora(["o_proj", "up_proj"], r=3), pickle=as_views),
    Variant("pickled_bf16", lora(["v_proj"]), stored=torch.bfloat16, pickle=dict),
]
ROUTED = [
    # What peft does with "all-linear" on Mixtral and Qwen3-MoE: router and experts by target_parameters, gate|up of twice the rank.
    Variant("experts", dict(r=3, lora_alpha=6, target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])),
    Variant("experts_down", dict(r=4, lora_alpha=6, target_modules=["q_proj"], target_parameters=["experts.down_proj"])),
    Variant("experts_gate_up", dict(
        r=4, lora_alpha=5, use_rslora=True, target_modules=["o_proj"], target_parameters=["experts.gate_up_proj"])),
    Variant("router", dict(r=2, lora_alpha=3, target_modules=["v_proj"], target_parameters=["mlp.gate.weight"])),
    Variant("experts_patterns", dict(
        r=4, lora_alpha=8, target_modules=["k_proj"], target_parameters=["gate_up_proj", "down_proj", "gate.weight", "q_proj.weight"],
        rank_pattern={"experts.down_proj": 7, "gate.weight": 1, "k_proj": 5}, alpha_pattern={".*layers.1.*gate_up_proj": 3, "down_proj": 5},
    )),
    # layers_to_transform is for modules alone.
    Variant("experts_of_all_layers", dict(
        r=2, lora_alpha=4, target_modules=["q_proj"], layers_to_transform=[1], target_parameters=["experts.down_proj"])),
    Variant("attention_regex", lora(r".*\.self_attn\.(q|v)_proj")),
    Variant("experts_one_layer", dict(r=2, lora_alpha=4, target_parameters=["model.layers.1.mlp.experts.down_proj"]), strength=1.5),
]
EXPERTS_BF16 = Variant("experts_bf16", ROUTED[0].lora, stored=torch.bfloat16)
SHARED = [
    Variant("shared_expert", lora(["shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj"])),
    Variant("shared_expert_gate", lora(["shared_expert_gate", "v_proj"], r=2, alpha=6)),
    Variant("dense_and_shared", lora(["up_proj", "down_proj"])),
    Variant("all_and_experts", dict(r=3, lora_alpha=6, target_modules=["q_proj", "up_proj", "shared_expert_gate"],
                                    target_parameters=["gate_up_proj", "experts.down_proj", "gate.weight"])),
]
RANK_512 = Variant("rank_512", lora(["q_proj"], r=512, alpha=64, layers_to_transform=[1]), strength=2.0)

# The same for bases whose modules have other names.
OPT_LINEARS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
PHI_LINEARS = ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"]


def singles(names) -> list:
    return [Variant(f"only_{name}", lora([name])) for name in names]


FC2_AND_HEAD = Variant("head_pair_only", lora(["lm_head", "fc2"]), save_embeddings=False)
FC_PATTERNS = Variant("fc_patterns", lora(
    ["q_proj", "fc1", "fc2"], r=5, alpha=7, use_rslora=True, rank_pattern={"layers.0.*fc1": 2, "fc2": 9}, alpha_pattern={"q_proj": 3},
))
FC_REGEX = Variant("fc_regex", lora(r".*layers\.1\.(mlp\.)?fc[12]"))
FUSED = [
    *singles(["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
    Variant("fused_patterns", lora(["qkv_proj", "gate_up_proj"], r=5, alpha=7, use_rslora=True, rank_pattern={"qkv_proj": 9})),
    Variant("dora_fused", lora(["qkv_proj", "gate_up_proj", "down_proj"], use_dora=True)),
    Variant("embed_head_and_fused", lora(["embed_tokens", "lm_head", "qkv_proj"], r=3, alpha=6)),
    Variant("embed_pair_and_fused", lora(["embed_tokens", "gate_up_proj"]), save_embeddings=False),
]

DORA = [
    Variant("dora", lora(LINEARS, use_dora=True)),
    Variant("dora_rslora_patterns", lora(
        ["q_proj", "v_proj", "up_proj", "down_proj"], r=4, alpha=6, use_dora=True, use_rslora=True,
        rank_pattern={"up_proj": 9}, alpha_pattern={"layers.1.*": 3},
    )),
]
DORA_EMBEDDINGS = [
    Variant("dora_embed_tokens", lora(["embed_tokens", "v_proj"], use_dora=True)),
    Variant("dora_lm_head", lora(["lm_head"], use_dora=True), stored=torch.bfloat16),
]
LORA_BIAS = Variant("lora_bias", lora(["q_proj", "o_proj", "gate_proj"], lora_bias=True))
BIASES = [
    Variant("bias_lora_only", lora(["q_proj", "up_proj"], bias="lora_only")),
    Variant("bias_all", lora(["k_proj"], bias="all")),
    Variant("dora_bias_all", lora(["v_proj", "down_proj"], bias="all", use_dora=True)),
]

TOKENS = [90, 3, 17, 41, 5]  # In the file's order, which is not the tokens'.
REPLACED = [
    Variant("saved_embed_and_head", lora(["q_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    Variant("saved_head", lora(["v_proj"], modules_to_save=["lm_head"])),
    Variant("saved_embed_few_rows", lora(["down_proj"], modules_to_save=["embed_tokens"]), rows=TOKENS),
    Variant("saved_norms", lora(["o_proj", "up_proj"], modules_to_save=["norm"])),  # Every path that ends so.
    Variant("trainable_tokens", lora(["q_proj", "v_proj"], trainable_token_indices=TOKENS)),
    Variant("trainable_tokens_of_both", lora(
        ["k_proj"], trainable_token_indices={"embed_tokens": TOKENS, "lm_head": [8, 90, 2]})),
]
BOTH_TABLES = ["embed_tokens", "lm_head"]
OWN_TOKENS = [
    Variant("own_tokens", lora(["q_proj", "up_proj"], modules_to_save=BOTH_TABLES), own_tokens=7),
    Variant("own_tokens_few_rows", lora(["down_proj"], modules_to_save=BOTH_TABLES), own_tokens=4, rows=TOKENS),
]


# As peft saves them where it can see the base's own vocabulary: with the tables that modules_to_save or tokens are put on.
OWN_TOKENS_AND_TABLES = Variant("own_tokens_and_tables", lora(["o_proj"], modules_to_save=BOTH_TABLES), own_tokens=5, save_embeddings=True)


def own_trainable(vocabulary: int, name="own_trainable_tokens", **saved) -> Variant:
    """Of a tied base, where the head has the embedding's new rows; the base's tokens may be among them."""
    return Variant(name, lora(["v_proj"], trainable_token_indices=[vocabulary + 1, 17, vocabulary, vocabulary + 2]),
                   own_tokens=3, **saved)


def own_trainable_of_both(vocabulary: int, name="own_trainable_tokens_of_both", **saved) -> Variant:
    own = [vocabulary, vocabulary + 1]
    return Variant(name, lora(
        ["k_proj"], trainable_token_indices={"embed_tokens": own, "lm_head": [8, *own]}), own_tokens=2, **saved)


INITS = [
    Variant("pissa", lora(LINEARS, r=4, alpha=6, init_lora_weights="pissa")),
    Variant("pissa_high_rank", lora(["q_proj", "down_proj"], r=14, use_rslora=True, init_lora_weights="pissa")),
    Variant("pissa_dora", lora(["v_proj", "up_proj"], r=3, init_lora_weights="pissa", use_dora=True)),
    Variant("olora", lora(LINEARS, r=5, alpha=7, init_lora_weights="olora", rank_pattern={"o_proj": 2})),
    Variant("olora_bf16", lora(["k_proj", "o_proj"], init_lora_weights="olora"), stored=torch.bfloat16),
    Variant("pissa_converted", lora(["q_proj", "gate_proj"], init_lora_weights="pissa"), converted=True),
    Variant("olora_converted", lora(["k_proj", "down_proj"], init_lora_weights="olora"), converted=True),
    Variant("olora_of_more_than_the_width", lora(["k_proj"], r=52, init_lora_weights="olora")),  # hidden 48: stored with rank 48
]
INIT_ON_HEAD = Variant("pissa_on_head", lora(["lm_head", "q_proj"], init_lora_weights="pissa"))
INVOCATION = [7, 19, 7]


def with_invocation(prompt: list) -> list:
    """The invocation twice in a long prompt, at the end of a middling one, cut short in a short one."""
    length, n = len(prompt), len(INVOCATION)
    if length < 2 * n:
        return prompt[:-1] + INVOCATION[:1]
    starts = [length // 3, 2 * length // 3] if length > 10 else [length - n]
    for start in starts:
        prompt = prompt[:start] + INVOCATION + prompt[start + n :]
    return prompt


ALORA = [
    Variant("alora", lora(LINEARS, alora_invocation_tokens=INVOCATION), edit_prompt=with_invocation),
    Variant("alora_patterns", lora(["q_proj", "down_proj"], r=6, use_rslora=True, alora_invocation_tokens=INVOCATION,
                                   rank_pattern={"down_proj": 3}), edit_prompt=with_invocation),
    Variant("alora_lora_bias", lora(["k_proj", "v_proj", "lm_head"], lora_bias=True, alora_invocation_tokens=INVOCATION),
            edit_prompt=with_invocation),
]
BLOCKS = [
    Variant("block_diagonal", lora(LINEARS, r=8, alpha=6, use_bdlora=BdLoraConfig(
        target_modules_bd_a=["o_proj", "down"], target_modules_bd_b=["q_proj", "k_proj", "v_proj", "gate", "up"], nblocks=2))),
    Variant("block_diagonal_some", lora(["q_proj", "o_proj", "up_proj"], r=4, use_rslora=True, use_bdlora=BdLoraConfig(
        target_modules_bd_a=["o_proj"], target_modules_bd_b=["up_proj"], nblocks=4, match_strict=False))),
]
SAVED_TIED = Variant("saved_tied", lora(["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True))
TIED_DORA = Variant("dora_weight_tying", lora(["model.embed_tokens"], use_dora=True, ensure_weight_tying=True), save_embeddings=True)
BIAS_ALL_AND_SAVED = Variant("bias_all_and_saved_norms", lora(["q_proj"], bias="all", modules_to_save=["final_layer_norm"]), strength=0.5)
SAVED_LAYER_NORMS = [Variant("saved_layer_norms", lora(["v_proj"], modules_to_save=[end])) for end in ("layer_norm", "layernorm")]
BIAS_ALL_AND_NORMS = Variant("bias_all", lora(["q_proj", "fc1"], bias="all"))

BY_BASE = {
    "llama3": [
        QV, ALL_LINEAR, *SINGLES, *EMBEDDINGS, RSLORA, *PATTERNS, *TARGETS, *RANKS, *STORED, *KEYS, *DORA,
        *DORA_EMBEDDINGS, LORA_BIAS, *PICKLED, *REPLACED,
    ],
    "llama2": [QV, ALL_LINEAR, RANK_512, EMBEDDINGS[2], RANKS[0], *BLOCKS, INIT_ON_HEAD, *ALORA, *OWN_TOKENS, own_trainable_of_both(96),
               OWN_TOKENS_AND_TABLES, own_trainable_of_both(96, "own_trainable_tokens_and_tables", save_embeddings=True, strength=0.9)],
    "llama_linear": [QV, ALL_LINEAR, *SINGLES, RSLORA, EMBEDDINGS[3], DORA[0], LORA_BIAS, *BIASES, *INITS],
    "mistral": [QV, ALL_LINEAR, EMBEDDINGS[2], STORED[0], TARGETS[0], BLOCKS[0], ALORA[0]],
    "qwen2": [QV, ALL_LINEAR, *SINGLES, *EMBEDDINGS, TIED, PATTERNS[0], STORED[1], DORA[1], BIASES[0], REPLACED[0], REPLACED[3], REPLACED[4], SAVED_TIED, *OWN_TOKENS, own_trainable(130),
              OWN_TOKENS_AND_TABLES, own_trainable(130, "own_trainable_tokens_and_tables", save_embeddings=True, strength=0.9)],
    "qwen2_sliding": [QV, ALL_LINEAR, RANKS[2], TARGETS[2]],
    "qwen3": [QV, ALL_LINEAR, *SINGLES, *EMBEDDINGS, TIED, STORED[0], DORA[0], *DORA_EMBEDDINGS, *REPLACED[1:], SAVED_TIED, TIED_DORA],
    "gemma": [QV, ALL_LINEAR, *EMBEDDINGS, STORED[0], DORA_EMBEDDINGS[0], REPLACED[2], REPLACED[3], REPLACED[4]],
    "gemma2": [QV, ALL_LINEAR, *SINGLES, *EMBEDDINGS, TIED, REPLACED[3], OWN_TOKENS[0]],
    "gemma3": [QV, ALL_LINEAR, *SINGLES, EMBEDDINGS[2]],
    "phi3": [ALL_LINEAR, *FUSED, *EMBEDDINGS[:2], EMBEDDINGS[4]],
    "llama_yarn": [QV, ALL_LINEAR, EMBEDDINGS[2]],
    "llama_dynamic": [QV, ALL_LINEAR, EMBEDDINGS[2]],
    "opt": [QV, ALL_LINEAR, *singles(OPT_LINEARS), *EMBEDDINGS[:4], FC2_AND_HEAD, TIED, FC_PATTERNS, FC_REGEX, SAVED_LAYER_NORMS[0], BIAS_ALL_AND_NORMS, REPLACED[4], BIAS_ALL_AND_SAVED],
    "opt_post": [QV, ALL_LINEAR, *singles(["out_proj", "fc1", "project_in", "project_out"]), *EMBEDDINGS[:3]],
    "opt_bare": [QV, ALL_LINEAR, *singles(["fc1", "project_in", "project_out"]), EMBEDDINGS[2]],
    "phi": [QV, ALL_LINEAR, *singles(PHI_LINEARS), EMBEDDINGS[0], EMBEDDINGS[3], FC2_AND_HEAD, FC_PATTERNS, FC_REGEX, SAVED_LAYER_NORMS[1], BIAS_ALL_AND_NORMS, REPLACED[1], EMBEDDINGS[1]],
    "mixtral": [QV, ALL_LINEAR, *ROUTED, EXPERTS_BF16, EMBEDDINGS[2]],
    "qwen2_moe": [QV, ALL_LINEAR, *ROUTED[:7], *SHARED],
    "qwen3_moe": [QV, ALL_LINEAR, *ROUTED, EMBEDDINGS[3]],
}


def scale_of(module) -> float:
    return module.scaling["default"]


def draw_pairs(model, strength: float, seed: int) -> None:
    """Random A and B for every targeted module; the update is `strength` times as large as the base weight's output."""
    for name, module in model.named_modules():
        if "default" not in getattr(module, "r", {}):
            continue
        weight = module.get_param() if isinstance(module, ParamWrapper) else module.base_layer.weight
        rank, width = module.r["default"], weight.detach().float().std().item()
        generator = torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(name.encode()))
        if "default" in module.lora_embedding_A:
            a, b = module.lora_embedding_A["default"], module.lora_embedding_B["default"]
            std = 1.0
        else:
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            std = a.shape[1] ** -0.5
        # Entries of s B A have this deviation: s * sqrt(rank) * std * std_b.
        std_b = strength * width / (abs(scale_of(module)) * rank**0.5 * std)
        a.data.copy_(std * torch.randn(a.shape, generator=generator))
        b.data.copy_(std_b * torch.randn(b.shape, generator=generator))


def draw_vectors(model, strength: float, seed: int) -> None:
    """Magnitudes off the norms they start from, biases of B, and new values for the biases that will be saved."""
    def noise(name, like):
        generator = torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(name.encode()))
        return torch.randn(like.shape, generator=generator)

    for name, module in model.named_modules():
        if "default" not in getattr(module, "r", {}):
            continue
        vectors = getattr(module, "lora_magnitude_vector", {})
        if "default" in vectors:
            magnitude = vectors["default"].weight.data
            magnitude.mul_(1 + 0.3 * strength * noise(name + ".m", magnitude).clamp(-2, 2))
        if getattr(module, "lora_bias", {}).get("default"):
            bias = module.lora_B["default"].bias.data
            bias.copy_(0.3 * strength * noise(name + ".b", bias))
    for name, parameter in model.named_parameters():
        if name.endswith(".bias") and "lora_" not in name and parameter.requires_grad:
            parameter.data.add_(0.3 * strength * noise(name, parameter))


def draw_replaced(model, variant: Variant, seed: int) -> None:
    """New values for what is saved whole: tables, norms, rows of tables."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or not ("modules_to_save.default.weight" in name or "trainable_tokens_delta" in name):
            continue
        generator = torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(name.encode()))
        noise = variant.strength * torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            parameter.data.mul_(1 + 0.4 * noise.clamp(-2, 2))
            continue
        if variant.rows is not None:
            kept = torch.ones(parameter.shape[0], dtype=torch.bool)
            kept[variant.rows] = False
            noise[kept] = 0
        parameter.data.add_(0.7 * parameter.detach().std() * noise)


def write_adapter(base: str, variant: Variant, model_dir: pathlib.Path, folder: pathlib.Path, seed: int = 1) -> None:
    """folder as peft's save_pretrained leaves it (without the README), then the variant's own edits."""
    model = oracle.load(model_dir)
    if variant.own_tokens:
        oracle.enlarge(model, model.config.vocab_size + variant.own_tokens)
    model.name_or_path = f"golden/{base}"
    peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **copy.deepcopy(variant.lora)))
    initial = folder.parent / "initial"
    if variant.converted:
        start = peft_model.peft_config["default"].init_lora_weights
        peft_model.peft_config["default"].init_lora_weights = True
        peft_model.save_pretrained(initial)
        peft_model.peft_config["default"].init_lora_weights = start
    draw_pairs(peft_model, variant.strength, seed)
    draw_vectors(peft_model, variant.strength, seed)
    draw_replaced(peft_model, variant, seed)
    if variant.stored != torch.float32:
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(variant.stored)
    peft_model.save_pretrained(folder, save_embedding_layers=variant.save_embeddings,
                               safe_serialization=variant.pickle != "peft",
                               path_initial_model_for_weight_conversion=initial if variant.converted else None)
    shutil.rmtree(initial, ignore_errors=True)
    (folder / "README.md").unlink(missing_ok=True)
    if variant.edit_config:
        write_json(folder / "adapter_config.json", variant.edit_config(read_json(folder / "adapter_config.json")))


def rename_tensors(variant: Variant, folder: pathlib.Path) -> None:
    """Applied after the answers are computed, since peft itself reads only its own names."""
    if variant.edit_key:
        path = folder / "adapter_model.safetensors"
        save_file({variant.edit_key(k): v for k, v in load_file(path).items()}, path, metadata={"format": "pt"})


def pickle_tensors(variant: Variant, folder: pathlib.Path) -> None:
    """adapter_model.bin instead of adapter_model.safetensors, where peft has not written it."""
    if callable(variant.pickle):
        path = folder / "adapter_model.safetensors"
        torch.save(variant.pickle(load_file(path)), folder / "adapter_model.bin")
        path.unlink()
