"""The base models: tiny configurations with random weights, one for each axis that a decoder must get right.

Sizes are odd on purpose (vocabularies and widths that are no multiple of 8 or 16), and every constant is chosen so
that it matters within the 60 positions of a case: `must_matter` lists changes of the configuration that have to move
a log-probability, and the generator refuses a base on which one of them does not.
"""

import copy
import dataclasses
import pathlib
import tempfile
import zlib

import torch
from transformers import (
    AutoConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from files import read_json, write_json


@dataclasses.dataclass
class Base:
    name: str
    model_class: type
    config: object
    seed: int
    stored: torch.dtype = torch.float32
    max_shard: str = "5GB"
    config_style: int = 5  # Which transformers' spelling config.json has.
    added: dict = dataclasses.field(default_factory=dict)  # Keys of config.json that published folders have and that change nothing.
    left_out: tuple = ()  # Keys that published version 4 files lack, to be filled with defaults.
    eos: object = 2  # Of generation_config.json; config.json always says 2.
    must_matter: dict = dataclasses.field(default_factory=dict)  # What is changed -> fields of config.json.


COMMON = dict(num_hidden_layers=2, bos_token_id=1, eos_token_id=2, pad_token_id=None, max_position_embeddings=256)


def rope(theta: float, **rest) -> dict:
    return {"rope_type": "default", "rope_theta": theta, **rest}


PHI3_ROPE = rope(10000.0) | {
    "rope_type": "longrope", "partial_rotary_factor": 0.75, "original_max_position_embeddings": 48,
    "short_factor": [1.0, 1.05, 1.1, 1.3, 1.5, 2.0], "long_factor": [1.2, 1.5, 2.0, 4.0, 6.0, 9.0],
}
YARN = rope(10000.0) | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 2.0}

BASES = [
    Base(
        name="llama3",
        model_class=LlamaForCausalLM,
        config=LlamaConfig(
            **COMMON, vocab_size=101, hidden_size=64, intermediate_size=88, num_attention_heads=4,
            num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=False,
            rope_parameters=rope(5000.0) | {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        seed=3,
        config_style=4,
        left_out=("head_dim",),
        eos=[2, 5],
        must_matter={"llama3 scaling": {"rope_parameters": rope(5000.0)}, "theta": {"rope_parameters": rope(10000.0)}},
    ),
    Base(
        name="llama2",
        model_class=LlamaForCausalLM,
        config=LlamaConfig(
            **COMMON, vocab_size=96, hidden_size=32, intermediate_size=72, num_attention_heads=4,
            num_key_value_heads=4, rms_norm_eps=1e-6, tie_word_embeddings=False, rope_parameters=rope(10000.0),
        ),
        seed=2,
        max_shard="40KB",
        left_out=("head_dim", "num_key_value_heads", "attention_bias", "mlp_bias", "rope_theta"),
        must_matter={"theta": {"rope_parameters": rope(500.0)}, "eps": {"rms_norm_eps": 0.1}},
    ),
    Base(
        name="llama_linear",
        model_class=LlamaForCausalLM,
        config=LlamaConfig(
            **COMMON, vocab_size=119, hidden_size=48, intermediate_size=68, num_attention_heads=3,
            num_key_value_heads=3, head_dim=20, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
            rope_parameters=rope(10000.0) | {"rope_type": "linear", "factor": 4.0},
        ),
        seed=4,
        must_matter={"linear scaling": {"rope_parameters": rope(10000.0)}},
    ),
    Base(
        name="mistral",
        model_class=MistralForCausalLM,
        config=MistralConfig(
            **COMMON, vocab_size=112, hidden_size=48, intermediate_size=80, num_attention_heads=6,
            num_key_value_heads=2, head_dim=8, sliding_window=8, tie_word_embeddings=False,
            rope_parameters=rope(10000.0),
        ),
        seed=5,
        stored=torch.float16,
        left_out=("head_dim",),
        must_matter={"window": {"sliding_window": None}, "window of 9": {"sliding_window": 9}},
    ),
    Base(
        name="qwen2",
        model_class=Qwen2ForCausalLM,
        config=Qwen2Config(
            **COMMON, vocab_size=130, hidden_size=40, intermediate_size=76, num_attention_heads=5,
            num_key_value_heads=1, tie_word_embeddings=True, rope_parameters=rope(100000.0),
        ),
        seed=6,
        added={"sliding_window": 4, "max_window_layers": 1},  # Without effect, as use_sliding_window is false.
        must_matter={"theta": {"rope_parameters": rope(1000.0)}},
    ),
    Base(
        name="qwen2_sliding",
        model_class=Qwen2ForCausalLM,
        config=Qwen2Config(
            **COMMON, vocab_size=97, hidden_size=32, intermediate_size=52, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=False, use_sliding_window=True, sliding_window=6,
            max_window_layers=1, rope_parameters=rope(10000.0),
        ),
        seed=7,
        must_matter={
            "window": {"use_sliding_window": False, "layer_types": ["full_attention"] * 2, "sliding_window": None},
            "every layer slides": {"layer_types": ["sliding_attention"] * 2},
        },
    ),
    Base(
        name="qwen3",
        model_class=Qwen3ForCausalLM,
        config=Qwen3Config(
            **COMMON, vocab_size=105, hidden_size=48, intermediate_size=92, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, rope_parameters=rope(10000.0),
        ),
        seed=8,
        stored=torch.bfloat16,
        must_matter={"theta": {"rope_parameters": rope(500.0)}},
    ),
    Base(
        name="opt",
        model_class=OPTForCausalLM,
        config=OPTConfig(
            **COMMON | dict(max_position_embeddings=176), vocab_size=103, hidden_size=48, ffn_dim=76,
            num_attention_heads=4, tie_word_embeddings=True,
        ),
        seed=9,
        left_out=("word_embed_proj_dim", "tie_word_embeddings", "enable_bias", "layer_norm_elementwise_affine", "_remove_final_layer_norm"),
        must_matter={
            "relu": {"activation_function": "gelu"}, "final norm": {"_remove_final_layer_norm": True},
            "norms before": {"do_layer_norm_before": False},
        },
    ),
    Base(
        name="opt_post",
        model_class=OPTForCausalLM,
        config=OPTConfig(
            **COMMON | dict(max_position_embeddings=170), vocab_size=117, hidden_size=56, ffn_dim=84,
            num_attention_heads=4, word_embed_proj_dim=30, do_layer_norm_before=False, tie_word_embeddings=True,
        ),
        seed=10,
        stored=torch.float16,
        must_matter={"norms behind": {"do_layer_norm_before": True, "_remove_final_layer_norm": True}},
    ),
    Base(
        name="opt_bare",
        model_class=OPTForCausalLM,
        config=OPTConfig(
            **COMMON | dict(max_position_embeddings=168), vocab_size=99, hidden_size=40, ffn_dim=84,
            num_attention_heads=2, word_embed_proj_dim=26, activation_function="gelu", enable_bias=False,
            layer_norm_elementwise_affine=False, _remove_final_layer_norm=True, tie_word_embeddings=False,
        ),
        seed=11,
        stored=torch.bfloat16,
        must_matter={"gelu": {"activation_function": "relu"}, "no final norm": {"_remove_final_layer_norm": False}},
    ),
    Base(
        name="phi",
        model_class=PhiForCausalLM,
        config=PhiConfig(
            **COMMON, vocab_size=107, hidden_size=40, intermediate_size=72, num_attention_heads=2,
            rope_parameters=rope(10000.0, partial_rotary_factor=0.4), tie_word_embeddings=False,
        ),
        seed=12,
        stored=torch.bfloat16,
        left_out=("num_key_value_heads", "qk_layernorm"),
        must_matter={
            "gelu_new": {"hidden_act": "relu"}, "partial rotation": {"rope_parameters": rope(10000.0, partial_rotary_factor=0.8)},
            "eps": {"layer_norm_eps": 0.1},
        },
    ),
    Base(
        name="gemma",
        model_class=GemmaForCausalLM,
        config=GemmaConfig(
            **COMMON, vocab_size=103, hidden_size=40, intermediate_size=68, num_attention_heads=4,
            num_key_value_heads=1, head_dim=12, rope_parameters=rope(10000.0),
        ),
        seed=9,
        stored=torch.bfloat16,
        added={"hidden_act": "gelu", "hidden_activation": None},  # As the first files spell the approximation.
        must_matter={"theta": {"rope_parameters": rope(500.0)}},
    ),
    Base(
        name="gemma2",
        model_class=Gemma2ForCausalLM,
        config=Gemma2Config(
            **COMMON, vocab_size=109, hidden_size=36, intermediate_size=60, num_attention_heads=4,
            num_key_value_heads=2, head_dim=10, sliding_window=9, query_pre_attn_scalar=17,
            attn_logit_softcapping=4.0, final_logit_softcapping=7.0, rope_parameters=rope(10000.0),
        ),
        seed=10,
        must_matter={
            "window": {"sliding_window": 250}, "window of 10": {"sliding_window": 10},
            "which layers slide": {"layer_types": ["full_attention", "sliding_attention"]},
            "soft cap of scores": {"attn_logit_softcapping": None}, "soft cap of logits": {"final_logit_softcapping": None},
            "scale of scores": {"query_pre_attn_scalar": 10},
        },
    ),
    Base(
        name="gemma3",
        model_class=Gemma3ForCausalLM,
        config=Gemma3TextConfig(
            **(COMMON | {"num_hidden_layers": 3}), vocab_size=106, hidden_size=44, intermediate_size=52,
            num_attention_heads=4, num_key_value_heads=2, head_dim=14, sliding_window=11, query_pre_attn_scalar=14,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": rope(5000.0) | {"rope_type": "linear", "factor": 4.0},
                "sliding_attention": rope(300.0),
            },
        ),
        seed=11,
        stored=torch.bfloat16,
        added={"sliding_window_pattern": 2},  # What version 4 has for layer_types.
        must_matter={
            "window": {"sliding_window": 250}, "which layers slide": {"layer_types": ["sliding_attention"] * 3},
            "global rope": {"rope_parameters": {
                "full_attention": rope(5000.0), "sliding_attention": rope(300.0)}},
            "local rope": {"rope_parameters": {
                "full_attention": rope(5000.0) | {"rope_type": "linear", "factor": 4.0}, "sliding_attention": rope(5000.0)}},
        },
    ),
    Base(
        name="phi3",
        model_class=Phi3ForCausalLM,
        config=Phi3Config(
            **COMMON, vocab_size=107, hidden_size=64, intermediate_size=60, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=70, original_max_position_embeddings=48, tie_word_embeddings=False,
            rope_parameters=PHI3_ROPE,
        ),
        seed=12,
        must_matter={
            "window": {"sliding_window": None},
            "switch to the long factors": {"original_max_position_embeddings": 250},
            "short factors": {"rope_parameters": PHI3_ROPE | {"short_factor": [1.0] * 6}},
            "long factors": {"rope_parameters": PHI3_ROPE | {"long_factor": [1.0] * 6}},
            "attention factor": {"rope_parameters": PHI3_ROPE | {"attention_factor": 1.0}},
            "part of the head": {"rope_parameters": PHI3_ROPE | {
                "partial_rotary_factor": 0.5, "short_factor": [1.0] * 4, "long_factor": [1.5] * 4}},
        },
    ),
    Base(
        name="llama_yarn",
        model_class=LlamaForCausalLM,
        config=LlamaConfig(
            **COMMON, vocab_size=98, hidden_size=64, intermediate_size=56, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=True, rope_parameters=YARN,
        ),
        seed=13,
        left_out=("head_dim",),
        must_matter={
            "yarn": {"rope_parameters": rope(10000.0)},
            "attention factor": {"rope_parameters": YARN | {"attention_factor": 1.0}},
            "beta_fast": {"rope_parameters": YARN | {"beta_fast": 32.0}},
        },
    ),
    Base(
        name="llama_dynamic",
        model_class=LlamaForCausalLM,
        config=LlamaConfig(
            **(COMMON | {"max_position_embeddings": 32}), vocab_size=99, hidden_size=32, intermediate_size=56,
            num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=rope(10000.0) | {
                "rope_type": "dynamic", "factor": 6.0},
        ),
        seed=14,
        left_out=("head_dim",),
        must_matter={"dynamic": {"rope_parameters": rope(10000.0)}},
    ),
    Base(
        name="mixtral",
        model_class=MixtralForCausalLM,
        config=MixtralConfig(
            **COMMON, vocab_size=103, hidden_size=48, intermediate_size=36, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, sliding_window=11,
            rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters=rope(10000.0),
        ),
        seed=21,
        left_out=("head_dim",),
        must_matter={"window": {"sliding_window": None}, "one expert": {"num_experts_per_tok": 1}},
    ),
    Base(  # Dense layers among routed ones, experts whose weights are left as they are, a shared one.
        name="qwen2_moe",
        model_class=Qwen2MoeForCausalLM,
        config=Qwen2MoeConfig(
            **COMMON | dict(num_hidden_layers=3), vocab_size=98, hidden_size=40, intermediate_size=60, num_attention_heads=5,
            num_key_value_heads=1, num_experts=5, num_experts_per_tok=3, moe_intermediate_size=20,
            shared_expert_intermediate_size=44, mlp_only_layers=[1], norm_topk_prob=False,
            tie_word_embeddings=False, rope_parameters=rope(10000.0),
        ),
        seed=22,
        left_out=("norm_topk_prob", "decoder_sparse_step", "qkv_bias"),
        must_matter={"weights of the experts": {"norm_topk_prob": True}, "two experts": {"num_experts_per_tok": 2}},
    ),
    Base(
        name="qwen3_moe",
        model_class=Qwen3MoeForCausalLM,
        config=Qwen3MoeConfig(
            **COMMON | dict(num_hidden_layers=4), vocab_size=107, hidden_size=32, intermediate_size=52, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=28,
            decoder_sparse_step=2, norm_topk_prob=True, tie_word_embeddings=True, rope_parameters=rope(10000.0),
        ),
        seed=23,
        stored=torch.bfloat16,
        must_matter={"weights of the experts": {"norm_topk_prob": False}},
    ),
]


def draw_weights(model, seed: int) -> None:
    """Random weights with attention far from uniform, norms and biases that matter, and logits a few units wide."""
    hidden = model.config.hidden_size
    # Gemma adds one to a norm's weight itself, and makes embeddings sqrt(hidden) times as large as they are stored: stored
    # like the others' they would drown what the layers add. The last norm makes up for that in the logits.
    gemma = int(model.config.model_type.startswith("gemma"))
    shrink = hidden**0.5 if gemma else 1
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(name.encode())))
        if name.endswith("norm.weight"):
            value = (1 + 0.25 * noise) * (shrink if name == "model.norm.weight" else 1) - gemma
        elif name.endswith(".bias"):
            value = 0.4 * noise
        elif "embed_" in name or "lm_head" in name:
            value = 3.0 * noise / hidden**0.5 / shrink
        elif "project_out" in name and model.config._remove_final_layer_norm:
            value = 0.2 * noise / parameter.shape[-1] ** 0.5  # of rows that no norm made small
        else:
            gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.3
            value = gain * noise / parameter.shape[-1] ** 0.5
        parameter.data.copy_(value)


def write_base(base: Base, folder: pathlib.Path) -> None:
    """folder/model as save_pretrained leaves it, and folder/config_v4.json with the same configuration in the old spelling."""
    config = copy.deepcopy(base.config)
    model = base.model_class(config)
    draw_weights(model, base.seed)
    model = model.to(base.stored)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=base.eos)
    out = folder / "model"
    model.save_pretrained(out, max_shard_size=base.max_shard)
    new = read_json(out / "config.json") | base.added
    old = version_4_spelling(new, base.left_out)
    write_json(folder / "config_v4.json", old)
    write_json(out / "config.json", old if base.config_style == 4 else new)
    require_same_reading(new, old)


def version_4_spelling(config: dict, left_out: tuple) -> dict:
    old = dict(config)
    if "rope_parameters" in old:
        parameters = dict(old.pop("rope_parameters"))
        if "full_attention" in parameters:  # Gemma 3's two.
            old["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
            parameters = dict(parameters["full_attention"])
        old["rope_theta"] = parameters.pop("rope_theta")
        if "partial_rotary_factor" in parameters:
            old["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
        old["rope_scaling"] = parameters if parameters["rope_type"] != "default" else None
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.46.3"
    old.pop("layer_types", None)
    if old["model_type"] == "qwen3_moe":
        old["num_experts"] = old.pop("num_local_experts")
    return {key: old[key] for key in sorted(old) if key not in left_out}


def require_same_reading(new: dict, old: dict) -> None:
    """Both spellings must be one configuration to transformers."""
    read = []
    for spelling in (new, old):
        with tempfile.TemporaryDirectory() as folder:
            write_json(pathlib.Path(folder) / "config.json", spelling)
            # The share of the head is compared where it counts, in rope_parameters.
            read.append(AutoConfig.from_pretrained(folder).to_dict() | {"_name_or_path": "", "partial_rotary_factor": None})
    if read[0] != read[1]:
        raise SystemExit(f"{new['model_type']}: the version 4 spelling reads differently")


def changed_config(folder: pathlib.Path, fields: dict):
    config = AutoConfig.from_pretrained(folder / "model")
    for key, value in fields.items():
        setattr(config, key, value)
    return config
