"""Base checkpoints that must be refused at start, each with one flaw, and a few odd ones that must be accepted.

Each folder has `model/` and expect.json {"code", "names"}; codes as in refused_adapters.py: UNIMPLEMENTED for an option that
is not supported, INVALID_ARGUMENT for a configuration that contradicts itself, DATA_LOSS for damaged files and for weights
that are not those of the configuration, NOT_FOUND without config.json.
"""

import copy
import dataclasses
import json
import pathlib
import shutil
import tempfile

import numpy
import torch
from safetensors.numpy import load_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

import bases
import oracle
from files import pack_f32, read_json, safetensors_bytes, write_json

UNIMPLEMENTED, INVALID, DAMAGED, ABSENT, OK = "UNIMPLEMENTED", "INVALID_ARGUMENT", "DATA_LOSS", "NOT_FOUND", "OK"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SIZES = dict(
    vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)


@dataclasses.dataclass
class Checkpoint:
    config: dict
    tensors: dict  # name -> float32 array
    files: dict = dataclasses.field(default_factory=dict)  # name -> bytes; replaces what would be written, None: leave out


@dataclasses.dataclass
class Flaw:
    name: str
    code: str
    names: list
    change: object  # Checkpoint -> None
    of: str = "llama"  # The sound model that it is put into.


def config(**values):
    return lambda c: c.config.update(values)


def rope(**values):
    return lambda c: c.config.update(rope_parameters={"rope_theta": 10000.0} | values)


def old_rope(**values):
    def change(c):
        c.config.pop("rope_parameters")
        c.config.update(rope_theta=10000.0, rope_scaling=values)
    return change


def without(*keys):
    def change(c):
        for key in keys:
            c.config.pop(key)
    return change


def drop(name):
    return lambda c: c.tensors.pop(name)


def put(name, *shape, value=0.1):
    return lambda c: c.tensors.update({name: numpy.full(shape, value, dtype="f4")})


def gemma(architecture, model_type, **values):
    return config(architectures=[architecture], model_type=model_type, **{"hidden_act": "gelu_pytorch_tanh"} | values)


def text(name, content):
    return lambda c: c.files.update({name: content})


def cut(count):
    """The weights file without its last bytes."""
    return lambda c: c.files.update({WEIGHTS: packed(c.tensors)[:-count]})


def packed(tensors: dict) -> bytes:
    return safetensors_bytes(*pack_f32(tensors))


def rename(edit):
    def change(c):
        c.tensors = {edit(name): tensor for name, tensor in c.tensors.items()}
    return change


def sharded(edit_map=None, edit_shards=None, index=None):
    """Two shards and an index, with the index's map or the shards' bytes changed."""
    def change(c):
        names = sorted(c.tensors)
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        shards = {f: packed({n: c.tensors[n] for n in half}) for f, half in zip(files, halves)}
        weight_map = {n: f for f, half in zip(files, halves) for n in half}
        total = sum(t.size * 4 for t in c.tensors.values())
        weight_map = edit_map(weight_map) if edit_map else weight_map
        shards = edit_shards(shards) if edit_shards else shards
        body = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}).encode()
        c.files.update(shards | {WEIGHTS: None, INDEX: body if index is None else index})
    return change


def second(files: dict) -> str:
    return sorted(files)[1]


def both(*changes):
    def change(c):
        for one in changes:
            one(c)
    return change


Q1, NORM = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"
QUANTIZED = {"quant_method": "gptq", "bits": 4, "group_size": 128}
HEAD = "lm_head.weight"
ROUTER = "model.layers.1.block_sparse_moe.gate.weight"
EXPERT = "model.layers.1.block_sparse_moe.experts.2.w3.weight"

FLAWS = [
    Flaw("architecture", UNIMPLEMENTED, ["GPTNeoXForCausalLM"], config(architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox")),
    Flaw("architecture_classifier", UNIMPLEMENTED, ["LlamaForSequenceClassification"], config(architectures=["LlamaForSequenceClassification"])),
    Flaw("architectures_missing", INVALID, ["architectures"], without("architectures")),
    Flaw("architectures_string", INVALID, ["architectures"], config(architectures="LlamaForCausalLM")),
    Flaw("rope_yarn_unknown_key", UNIMPLEMENTED, ["beta_middle"], rope(rope_type="yarn", factor=4.0, beta_middle=3.0)),
    Flaw("rope_yarn_without_factor", INVALID, ["factor"], rope(rope_type="yarn", original_max_position_embeddings=16)),
    Flaw("rope_yarn_betas_crossed", INVALID, ["beta_fast"], rope(rope_type="yarn", factor=4.0, beta_fast=1.0, beta_slow=8.0)),
    Flaw("rope_dynamic_without_factor", INVALID, ["factor"], rope(rope_type="dynamic")),
    Flaw("rope_dynamic_shrinks", INVALID, ["factor"], rope(rope_type="dynamic", factor=0.5)),
    Flaw("rope_longrope_list_short", INVALID, ["long_factor"], rope(
        rope_type="longrope", factor=4.0, short_factor=[1.0, 1.0], long_factor=[2.0])),
    Flaw("rope_longrope_list_of_words", INVALID, ["short_factor"], rope(
        rope_type="longrope", factor=4.0, short_factor=["1", "1"], long_factor=[2.0, 2.0])),
    Flaw("rope_unknown", UNIMPLEMENTED, ["spiral"], rope(rope_type="spiral", factor=4.0)),
    Flaw("rope_linear_without_factor", INVALID, ["factor"], rope(rope_type="linear")),
    Flaw("rope_llama3_half_there", INVALID, ["low_freq_factor"], rope(
        rope_type="llama3", factor=8.0, high_freq_factor=4.0, original_max_position_embeddings=16)),
    Flaw("rope_partial", UNIMPLEMENTED, ["partial_rotary_factor"], rope(rope_type="default", partial_rotary_factor=0.5)),
    Flaw("hidden_act", UNIMPLEMENTED, ["hidden_act", "foo_act"], config(hidden_act="foo_act")),
    Flaw("hidden_act_gelu", UNIMPLEMENTED, ["hidden_act", "gelu"], config(hidden_act="gelu")),
    Flaw("gemma_silu", UNIMPLEMENTED, ["hidden_act", "silu"], gemma("GemmaForCausalLM", "gemma", hidden_act="silu")),
    Flaw("gemma2_looks_ahead", UNIMPLEMENTED, ["use_bidirectional_attention"], gemma(
        "Gemma2ForCausalLM", "gemma2", use_bidirectional_attention=True)),
    Flaw("gemma2_without_window", INVALID, ["sliding_window"], gemma("Gemma2ForCausalLM", "gemma2", sliding_window=None)),
    Flaw("gemma2_cap_negative", INVALID, ["attn_logit_softcapping"], gemma(
        "Gemma2ForCausalLM", "gemma2", attn_logit_softcapping=-50.0)),
    Flaw("gemma3_scores_capped", UNIMPLEMENTED, ["attn_logit_softcapping"], gemma(
        "Gemma3ForCausalLM", "gemma3_text", rope_parameters=None, attn_logit_softcapping=50.0)),
    Flaw("gemma3_one_rope", UNIMPLEMENTED, ["rope_parameters", "full_attention"], gemma("Gemma3ForCausalLM", "gemma3_text")),
    Flaw("gemma3_layer_type", UNIMPLEMENTED, ["layer_types", "chunked_attention"], gemma(
        "Gemma3ForCausalLM", "gemma3_text", rope_parameters=None, layer_types=["sliding_attention", "chunked_attention"])),
    Flaw("gemma3_sees_images", UNIMPLEMENTED, ["Gemma3ForConditionalGeneration"], gemma("Gemma3ForConditionalGeneration", "gemma3")),
    Flaw("phi3_rotates_nothing", INVALID, ["partial_rotary_factor"], config(
        architectures=["Phi3ForCausalLM"], model_type="phi3", partial_rotary_factor=0.25)),
    Flaw("phi3_tensors_apart", DAMAGED, ["qkv_proj", "q_proj"], config(architectures=["Phi3ForCausalLM"], model_type="phi3")),
    Flaw("quantized", UNIMPLEMENTED, ["quantization_config"], config(quantization_config=QUANTIZED)),
    Flaw("hidden_size_negative", INVALID, ["hidden_size"], config(hidden_size=-8)),
    Flaw("hidden_size_string", INVALID, ["hidden_size"], config(hidden_size="8")),
    Flaw("hidden_size_missing", INVALID, ["hidden_size"], without("hidden_size")),
    Flaw("hidden_size_huge", INVALID, ["hidden_size"], config(hidden_size=2**60)),
    Flaw("layers_zero", INVALID, ["num_hidden_layers"], config(num_hidden_layers=0)),
    Flaw("layers_huge", INVALID, ["num_hidden_layers"], config(num_hidden_layers=2**40)),
    Flaw("kv_heads_do_not_divide", INVALID, ["num_key_value_heads"], config(num_attention_heads=2, num_key_value_heads=3)),
    Flaw("head_dim_odd", INVALID, ["head_dim"], config(head_dim=5)),
    Flaw("eps_string", INVALID, ["rms_norm_eps"], config(rms_norm_eps="1e-5")),
    Flaw("config_cut", DAMAGED, [CONFIG], text(CONFIG, b'{"architectures": ["LlamaForCausalLM"], ')),
    Flaw("config_array", INVALID, [CONFIG], text(CONFIG, b"[]\n")),
    Flaw("config_missing", ABSENT, [CONFIG], text(CONFIG, None)),
    Flaw("generation_config_cut", DAMAGED, ["generation_config.json"], text("generation_config.json", b'{"eos_token_id": [2,')),
    Flaw("weights_missing", DAMAGED, [WEIGHTS], text(WEIGHTS, None)),
    Flaw("weights_pickled", UNIMPLEMENTED, ["pytorch_model.bin"], both(text(WEIGHTS, None), text("pytorch_model.bin", b"PK\x03\x04"))),
    Flaw("tensor_missing", DAMAGED, [Q1], drop(Q1)),
    Flaw("norm_missing", DAMAGED, [NORM], drop(NORM)),
    Flaw("head_missing_and_not_tied", DAMAGED, [HEAD], drop(HEAD)),
    Flaw("tensor_unexpected", DAMAGED, ["model.layers.0.self_attn.q_proj.bias"], put("model.layers.0.self_attn.q_proj.bias", 8)),
    Flaw("layer_unexpected", DAMAGED, ["model.layers.2.input_layernorm.weight"], put("model.layers.2.input_layernorm.weight", 8)),
    Flaw("tensor_wrong_shape", DAMAGED, [Q1, "8", "9"], put(Q1, 9, 8)),
    Flaw("tensor_wrong_dimensions", DAMAGED, [Q1], put(Q1, 64)),
    Flaw("three_faults_in_one_message", DAMAGED, [Q1, NORM, "model.stray.weight"], both(
        drop(NORM), put(Q1, 8, 7), put("model.stray.weight", 8))),
    Flaw("vocabulary_of_the_config", DAMAGED, ["embed_tokens"], config(vocab_size=25)),
    Flaw("weights_cut", DAMAGED, [WEIGHTS], cut(100)),
    Flaw("weights_empty", DAMAGED, [WEIGHTS], text(WEIGHTS, b"")),
    Flaw("shard_cut", DAMAGED, ["model-00002-of-00002.safetensors"], sharded(
        edit_shards=lambda s: s | {second(s): s[second(s)][:-64]})),
    Flaw("shard_missing", DAMAGED, ["model-00002-of-00002.safetensors"], sharded(
        edit_shards=lambda s: {k: v for k, v in s.items() if k != second(s)})),
    Flaw("shard_lacks_a_tensor", DAMAGED, [NORM], sharded(edit_map=lambda m: m | {NORM: "model-00001-of-00002.safetensors"})),
    Flaw("index_lacks_a_tensor", DAMAGED, [NORM], sharded(edit_map=lambda m: {k: v for k, v in m.items() if k != NORM})),
    Flaw("index_leaves_the_folder", DAMAGED, [INDEX], sharded(edit_map=lambda m: m | {NORM: "../../control/model/model.safetensors"})),
    Flaw("index_absolute_path", DAMAGED, [INDEX], sharded(edit_map=lambda m: m | {NORM: "/etc/passwd"})),
    Flaw("index_cut", DAMAGED, [INDEX], sharded(index=b'{"weight_map": {')),
    Flaw("index_without_map", DAMAGED, [INDEX], sharded(index=b'{"metadata": {}}')),
    Flaw("opt_activation", UNIMPLEMENTED, ["activation_function", "tanh"], config(activation_function="tanh"), of="opt"),
    Flaw("opt_ffn_dim_missing", INVALID, ["ffn_dim"], without("ffn_dim"), of="opt"),
    Flaw("opt_norm_before_string", INVALID, ["do_layer_norm_before"], config(do_layer_norm_before="yes"), of="opt"),
    Flaw("opt_positions_too_few", DAMAGED, ["embed_positions", "66", "65"], put("model.decoder.embed_positions.weight", 65, 8), of="opt"),
    Flaw("opt_projection_missing", DAMAGED, ["project_in", "embed_tokens"], config(word_embed_proj_dim=4), of="opt"),
    Flaw("opt_norm_missing", DAMAGED, ["model.decoder.final_layer_norm.bias"], drop("model.decoder.final_layer_norm.bias"), of="opt"),
    Flaw("phi_qk_layernorm", UNIMPLEMENTED, ["qk_layernorm"], config(qk_layernorm=True), of="phi"),
    Flaw("phi_hidden_act", UNIMPLEMENTED, ["hidden_act", "mish"], config(hidden_act="mish"), of="phi"),
    Flaw("phi_rotation_odd", INVALID, ["partial_rotary_factor", "0.25"], rope(rope_type="default", partial_rotary_factor=0.25), of="phi"),
    Flaw("phi_rotation_above_one", INVALID, ["partial_rotary_factor"], rope(rope_type="default", partial_rotary_factor=1.5), of="phi"),
    Flaw("phi_head_bias_missing", DAMAGED, ["lm_head.bias"], drop("lm_head.bias"), of="phi"),
    Flaw("index_map_of_numbers", DAMAGED, [INDEX], sharded(edit_map=lambda m: m | {NORM: 3})),
    Flaw("experts_not_counted", INVALID, ["num_local_experts"], without("num_local_experts"), of="routed"),
    Flaw("experts_too_many", INVALID, ["num_local_experts"], config(num_local_experts=2**40), of="routed"),
    Flaw("more_experts_per_token_than_there_are", INVALID, ["num_experts_per_tok", "4"], config(num_experts_per_tok=4), of="routed"),
    Flaw("expert_missing", DAMAGED, [EXPERT], drop(EXPERT), of="routed"),
    Flaw("expert_wrong_shape", DAMAGED, [EXPERT, "12", "9"], put(EXPERT, 12, 9), of="routed"),
    Flaw("expert_unexpected", DAMAGED, ["experts.3.w1"], put("model.layers.0.block_sparse_moe.experts.3.w1.weight", 12, 8), of="routed"),
    Flaw("router_missing", DAMAGED, [ROUTER], drop(ROUTER), of="routed"),
    Flaw("router_of_other_experts", DAMAGED, [ROUTER, "4"], put(ROUTER, 4, 8), of="routed"),
    Flaw("experts_already_fused", DAMAGED, ["mlp.experts.gate_up_proj"], put("model.layers.0.mlp.experts.gate_up_proj", 3, 24, 8), of="routed"),
    Flaw("routed_hidden_act", UNIMPLEMENTED, ["hidden_act", "foo_act"], config(hidden_act="foo_act"), of="routed"),
    Flaw("routed_layer_types", UNIMPLEMENTED, ["layer_types"], config(layer_types=["full_attention"] * 2), of="routed"),
    Flaw("qwen2_moe_sliding", UNIMPLEMENTED, ["use_sliding_window"], config(
        architectures=["Qwen2MoeForCausalLM"], model_type="qwen2_moe", use_sliding_window=True), of="routed"),
    Flaw("qwen2_moe_without_shared_expert", INVALID, ["shared_expert_intermediate_size"], config(
        architectures=["Qwen2MoeForCausalLM"], model_type="qwen2_moe", num_experts=3, moe_intermediate_size=12), of="routed"),
    Flaw("qwen3_moe_counts_differ", INVALID, ["num_experts", "num_local_experts"], config(
        architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", num_experts=4, moe_intermediate_size=12), of="routed"),
    Flaw("qwen3_moe_dense_layers_of_strings", INVALID, ["mlp_only_layers"], config(
        architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", moe_intermediate_size=12, mlp_only_layers=["0"]), of="routed"),
]

ACCEPTED = [
    Flaw("control", OK, [], lambda c: None),
    Flaw("sharded", OK, [], sharded()),
    Flaw("left_over_inv_freq", OK, [], both(
        put("model.layers.0.self_attn.rotary_emb.inv_freq", 2), put("model.rotary_emb.inv_freq", 2))),
    Flaw("tied_with_head_in_the_file", OK, [], lambda c: (
        c.config.update(tie_word_embeddings=True), c.tensors.update({HEAD: c.tensors["model.embed_tokens.weight"]}))),
    Flaw("no_generation_config", OK, [], text("generation_config.json", None)),
    Flaw("old_rope_spelling", OK, [], old_rope(type="linear", factor=2.0)),
    Flaw("rope_yarn", OK, [], rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
    Flaw("rope_yarn_old_spelling", OK, [], old_rope(type="yarn", factor=4.0)),
    Flaw("rope_dynamic", OK, [], rope(rope_type="dynamic", factor=4.0)),
    Flaw("rope_longrope", OK, [], rope(
        rope_type="longrope", factor=4.0, short_factor=[1.0, 1.0], long_factor=[2.0, 2.0], original_max_position_embeddings=16)),
    Flaw("rope_from_neither_spelling", OK, [], without("rope_parameters")),
    Flaw("unknown_config_keys", OK, [], config(_attn_implementation_autoset=True, torchscript=False, foo=None)),
    Flaw("opt_control", OK, [], lambda c: None, of="opt"),
    Flaw("opt_saved_by_the_inner_model", OK, [], rename(lambda name: name.removeprefix("model.")), of="opt"),
    Flaw("opt_decoder_version", OK, [], put("model.decoder.version", 1), of="opt"),
    Flaw("phi_control", OK, [], lambda c: None, of="phi"),
    Flaw("phi_rotation_of_the_whole_head", OK, [], rope(rope_type="default", partial_rotary_factor=1.0), of="phi"),
    Flaw("routed_control", OK, [], lambda c: None, of="routed"),
    Flaw("routed_old_config", OK, [], both(old_rope(), without("rope_scaling", "head_dim", "router_jitter_noise")), of="routed"),
    Flaw("eos_list", OK, [], config(eos_token_id=[2, 7])),
]


def sound_routed() -> Checkpoint:
    """A tiny Mixtral that loads, its experts one by one as save_pretrained writes them."""
    config = MixtralConfig(
        **SIZES, num_local_experts=3, num_experts_per_tok=2, tie_word_embeddings=False, architectures=["MixtralForCausalLM"])
    model = MixtralForCausalLM(config)
    bases.draw_weights(model, seed=12)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return Checkpoint(read_json(pathlib.Path(folder) / CONFIG), load_file(pathlib.Path(folder) / WEIGHTS))


def sound() -> dict:
    """Tiny models that load, by family."""
    opt_sizes = {key: value for key, value in SIZES.items() if key not in ("intermediate_size", "num_key_value_heads")} | {"ffn_dim": 12}
    return {
        "llama": checkpoint_of(LlamaForCausalLM, LlamaConfig, SIZES, {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}),
        "opt": checkpoint_of(OPTForCausalLM, OPTConfig, opt_sizes, {"tie_word_embeddings": True}),
        "phi": checkpoint_of(PhiForCausalLM, PhiConfig, SIZES, {"tie_word_embeddings": False}),
        "routed": sound_routed(),
    }


def checkpoint_of(model_class, config_class, sizes: dict, written: dict) -> Checkpoint:
    """`written`: keys that config.json has though they are the defaults."""
    tied = {"tie_word_embeddings": written["tie_word_embeddings"]}
    model = model_class(config_class(**sizes, **tied, architectures=[model_class.__name__], dtype="float32"))
    bases.draw_weights(model, seed=11)
    config = model.config.to_diff_dict() | sizes | written
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if tied["tie_word_embeddings"]:
        tensors.pop(HEAD)
    return Checkpoint(config, tensors)


def write_checkpoint(folder: pathlib.Path, checkpoint: Checkpoint, flaw: Flaw) -> None:
    model = folder / "model"
    model.mkdir(parents=True)
    flaw.change(checkpoint)
    contents = {
        CONFIG: (json.dumps(checkpoint.config, indent=2) + "\n").encode(),
        "generation_config.json": b'{"bos_token_id": 1, "eos_token_id": 2}\n',
        WEIGHTS: packed(checkpoint.tensors),
    } | checkpoint.files
    for name, content in contents.items():
        if content is not None:
            (model / name).write_bytes(content)
    write_json(folder / "expect.json", {"code": flaw.code, "names": flaw.names})


def write_all(here: pathlib.Path) -> None:
    checkpoints = sound()
    for place, flaws in ((here / "refused_models", FLAWS), (here / "accepted_models", ACCEPTED)):
        shutil.rmtree(place, ignore_errors=True)
        for flaw in flaws:
            write_checkpoint(place / flaw.name, copy.deepcopy(checkpoints[flaw.of]), flaw)
    for flaw in ACCEPTED:
        if not torch.isfinite(oracle.log_softmax_rows(oracle.load(here / "accepted_models" / flaw.name / "model"), [1, 5, 9])).all():
            raise SystemExit(f"accepted_models/{flaw.name} does not run in transformers")
    print(f"refused models: {len(FLAWS)}, accepted: {len(ACCEPTED)}")
