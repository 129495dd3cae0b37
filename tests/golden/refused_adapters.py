"""Adapter folders that must be refused, each with one flaw, and a few odd ones that must be accepted.

Each folder has expect.json: {"base", "code", "names"}; the error has that code and its message holds every string of
`names`. The rule behind the codes:

  UNIMPLEMENTED     a sound adapter that asks for something lorad does not do
  INVALID_ARGUMENT  sound files that say something that cannot be: a value out of range, a target or shape the base lacks
  DATA_LOSS         damaged, incomplete or contradictory files
  NOT_FOUND         no adapter there
"""

import copy
import dataclasses
import math
import pathlib
import shutil

import numpy
import torch

import oracle
import refused_containers
import refused_pickles
from files import pack_f32, read_json, safetensors_bytes, write_json
from peft_refused import write_peft_made

BASE = "llama2"  # hidden 32, 2 layers, vocabulary 96
HIDDEN, VOCAB, RANK = 32, 96, 2
WEIGHTS, PICKLED, CONFIG = "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"
UNIMPLEMENTED, INVALID, DAMAGED, ABSENT, OK = "UNIMPLEMENTED", "INVALID_ARGUMENT", "DATA_LOSS", "NOT_FOUND", "OK"


@dataclasses.dataclass
class Folder:
    """An adapter that would be right: LoRA of rank 2 on q_proj and v_proj of both layers. A flaw changes it."""

    config: object
    tensors: dict
    files: dict = dataclasses.field(default_factory=dict)  # name -> bytes; replaces what would be written, None: leave out


@dataclasses.dataclass
class Flaw:
    name: str
    code: str
    names: list
    change: object  # Folder -> None


def site(layer: int, module: str) -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.{module}"


def sound(template: dict) -> Folder:
    numbers = numpy.random.default_rng(7)
    tensors = {}
    for layer in (0, 1):
        for module in ("q_proj", "v_proj"):
            tensors[site(layer, module) + ".lora_A.weight"] = 0.2 * numbers.standard_normal((RANK, HIDDEN))
            tensors[site(layer, module) + ".lora_B.weight"] = 0.2 * numbers.standard_normal((HIDDEN, RANK))
    config = copy.deepcopy(template) | {"r": RANK, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    return Folder(config, tensors)


def config(**values):
    return lambda folder: folder.config.update(values)


def without_peft_type(**values):
    def change(folder):
        folder.config.pop("peft_type")
        folder.config.update(values)
    return change


def drop(*names):
    def change(folder):
        for name in names:
            del folder.tensors[name]
    return change


def put(name: str, shape: tuple, value: float = 0.1):
    return lambda folder: folder.tensors.update({name: numpy.full(shape, value)})


def poke(name: str, value: float):
    def change(folder):
        folder.tensors[name].flat[5] = value
    return change


def text(name: str, content):
    return lambda folder: folder.files.update({name: content})


def both(*changes):
    def change(folder):
        for c in changes:
            c(folder)
    return change


Q0A, Q0B = site(0, "q_proj") + ".lora_A.weight", site(0, "q_proj") + ".lora_B.weight"
Q1A, Q1B = site(1, "q_proj") + ".lora_A.weight", site(1, "q_proj") + ".lora_B.weight"
EMBED = "base_model.model.model.embed_tokens"
TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"
LOOK_AROUND = r".*(?<!k)_proj"

CONFIGS = [
    Flaw("mixlora", UNIMPLEMENTED, ["inference_mode"], without_peft_type(
        routing_strategy="mixlora", num_experts=4, top_k=2, act_fn="silu")),
    Flaw("mixlora_peft_type", UNIMPLEMENTED, ["inference_mode"], config(peft_type="MIXLORA", num_experts=4)),
    Flaw("loramoe_routing", UNIMPLEMENTED, ["routing_strategy", "loramoe"], config(routing_strategy="loramoe", num_experts=4)),
    Flaw("peft_type_unknown", UNIMPLEMENTED, ["peft_type", "FROBNICATE"], config(peft_type="FROBNICATE")),
    Flaw("peft_type_number", INVALID, ["peft_type"], config(peft_type=7)),
    Flaw("qalora", UNIMPLEMENTED, ["use_qalora"], config(use_qalora=True)),
    Flaw("arrow", UNIMPLEMENTED, ["arrow_config"], config(arrow_config={"top_k": 3, "router_temperature": 1.0, "use_gks": False})),
    Flaw("kasa", UNIMPLEMENTED, ["kasa_config"], config(kasa_config={"beta": 1e-4, "gamma": 1e-3})),
    Flaw("kasa_of_defaults", UNIMPLEMENTED, ["kasa_config"], config(kasa_config={})),
    Flaw("bdlora_of_neither", INVALID, ["use_bdlora", "v_proj"], config(
        use_bdlora={"target_modules_bd_a": ["q_proj"], "nblocks": 2})),
    Flaw("bdlora_of_both", INVALID, ["use_bdlora", "q_proj"], config(
        use_bdlora={"target_modules_bd_a": ["q_"], "target_modules_bd_b": ["proj"], "nblocks": 2})),
    Flaw("bdlora_blocks_do_not_divide", INVALID, ["nblocks: 3"], config(
        use_bdlora={"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["v_proj"], "nblocks": 3})),
    Flaw("bdlora_and_dora", UNIMPLEMENTED, ["use_bdlora", "use_dora"], config(
        use_bdlora={"target_modules_bd_a": ["q_proj", "v_proj"], "nblocks": 2}, use_dora=True)),
    Flaw("bdlora_stored_whole", INVALID, ["q_proj", "lora_A", "[rank, 16]"], config(
        use_bdlora={"target_modules_bd_a": ["q_proj", "v_proj"], "nblocks": 2})),
    Flaw("alora_with_dora", UNIMPLEMENTED, ["alora_invocation_tokens", "use_dora"], config(
        alora_invocation_tokens=[5, 6, 7], use_dora=True)),
    Flaw("alora_on_embedding", UNIMPLEMENTED, ["alora_invocation_tokens", "embedding"], both(
        config(target_modules=["q_proj", "v_proj", "embed_tokens"], alora_invocation_tokens=[5]),
        put(EMBED + ".lora_embedding_A", (RANK, VOCAB)), put(EMBED + ".lora_embedding_B", (HIDDEN, RANK)))),
    Flaw("alora_with_classifier", UNIMPLEMENTED, ["alora_invocation_tokens", "modules_to_save"], both(
        config(task_type="SEQ_CLS", modules_to_save=["classifier", "score"], alora_invocation_tokens=[5]),
        put("base_model.model.score.weight", (3, HIDDEN)))),
    Flaw("alora_with_classifier_unsaid", UNIMPLEMENTED, ["alora_invocation_tokens", "classifier head"], both(
        config(task_type="SEQ_CLS", alora_invocation_tokens=[5]), put("base_model.model.score.weight", (3, HIDDEN)))),
    Flaw("alora_of_unknown_token", INVALID, ["alora_invocation_tokens", str(VOCAB)], config(alora_invocation_tokens=[5, VOCAB])),
    Flaw("alora_of_strings", INVALID, ["alora_invocation_tokens"], config(alora_invocation_tokens=["a"])),
    Flaw("init_pissa_of_no_scale", INVALID, ["init_lora_weights", "scale: 0"], config(init_lora_weights="pissa", lora_alpha=0)),
    Flaw("init_olora_on_embedding", UNIMPLEMENTED, ["init_lora_weights", "embedding"], both(
        config(target_modules=["q_proj", "v_proj", "embed_tokens"], init_lora_weights="olora"),
        put(EMBED + ".lora_embedding_A", (RANK, VOCAB)), put(EMBED + ".lora_embedding_B", (HIDDEN, RANK)))),
    Flaw("init_corda", UNIMPLEMENTED, ["init_lora_weights", "corda"], config(init_lora_weights="corda")),
    Flaw("init_loftq", UNIMPLEMENTED, ["init_lora_weights", "loftq"], config(init_lora_weights="loftq")),
    Flaw("init_lora_ga", UNIMPLEMENTED, ["init_lora_weights", "lora_ga"], config(init_lora_weights="lora_ga")),
    Flaw("unknown_flag", UNIMPLEMENTED, ["use_foo_lora"], config(use_foo_lora=True)),
    Flaw("unknown_object", UNIMPLEMENTED, ["foo_config"], config(foo_config={"strength": 2})),
    Flaw("regex_look_around", UNIMPLEMENTED, ["target_modules", LOOK_AROUND], config(target_modules=LOOK_AROUND)),
    Flaw("regex_look_around_in_pattern", UNIMPLEMENTED, ["rank_pattern", "(?=q)"], config(rank_pattern={"(?=q)q_proj": 2})),
    Flaw("regex_broken", INVALID, ["target_modules", "(q_proj"], config(target_modules=".*(q_proj")),
    Flaw("regex_catastrophic", INVALID, ["target_modules", "(a+)+$"], config(target_modules="(a+)+$")),
    Flaw("unknown_target", INVALID, ["c_attn"], config(target_modules=["q_proj", "v_proj", "c_attn"])),
    Flaw("target_is_a_norm", INVALID, ["input_layernorm"], config(target_modules=["q_proj", "v_proj", "input_layernorm"])),
    Flaw("target_empty_list", INVALID, ["target_modules"], config(target_modules=[])),
    Flaw("target_parameters_and_dora", INVALID, ["target_parameters", "o_proj.weight", "use_dora"], config(
        target_parameters=["layers.1.self_attn.o_proj.weight"], use_dora=True)),
    Flaw("target_parameter_of_a_target", INVALID, ["target_parameters", "v_proj.weight"], config(target_parameters=["v_proj.weight"])),
    Flaw("target_parameter_unknown", INVALID, ["target_parameters", "experts.down_proj"], config(target_parameters=["experts.down_proj"])),
    Flaw("target_parameter_is_the_embedding", INVALID, ["embed_tokens.weight"], config(target_parameters=["embed_tokens.weight"])),
    Flaw("target_parameter_without_tensors", DAMAGED, ["model.layers.0.self_attn.o_proj"], config(target_parameters=["o_proj.weight"])),
    Flaw("target_number", INVALID, ["target_modules"], config(target_modules=3)),
    Flaw("target_list_of_numbers", INVALID, ["target_modules"], config(target_modules=["q_proj", 3])),
    Flaw("r_zero", INVALID, ["r: 0"], config(r=0)),
    Flaw("r_negative", INVALID, ["r: -2"], config(r=-2)),
    Flaw("r_513", INVALID, ["513", "512"], config(r=513)),
    Flaw("r_huge", INVALID, ["512"], config(r=2**62)),
    Flaw("r_string", INVALID, ["r: "], config(r="2")),
    Flaw("r_fraction", INVALID, ["2.5"], config(r=2.5)),
    Flaw("rank_pattern_zero", INVALID, ["rank_pattern"], config(rank_pattern={"q_proj": 0})),
    Flaw("rank_pattern_600", INVALID, ["rank_pattern", "600"], config(rank_pattern={"q_proj": 600})),
    Flaw("rank_pattern_list", INVALID, ["rank_pattern"], config(rank_pattern=["q_proj"])),
    Flaw("rank_not_the_tensors", INVALID, ["layers.0.self_attn.q_proj"], config(r=4)),
    Flaw("alpha_string", INVALID, ["lora_alpha"], config(lora_alpha="16")),
    Flaw("alpha_too_large_for_fp32", INVALID, ["lora_alpha"], config(lora_alpha=1e300)),
    Flaw("alpha_pattern_string", INVALID, ["alpha_pattern"], config(alpha_pattern={"q_proj": "8"})),
    Flaw("flag_string", INVALID, ["use_rslora"], config(use_rslora="yes")),
    Flaw("layers_to_transform_string", INVALID, ["layers_to_transform"], config(layers_to_transform="1")),
    Flaw("alpha_nan", DAMAGED, [CONFIG], config(lora_alpha=float("nan"))),  # Python writes NaN, which is not JSON.
    Flaw("config_cut", DAMAGED, [CONFIG], text(CONFIG, b'{"peft_type": "LORA", "r": ')),
    Flaw("config_empty", DAMAGED, [CONFIG], text(CONFIG, b"")),
    Flaw("config_not_utf8", DAMAGED, [CONFIG], text(CONFIG, b'{"peft_type": "LORA", "revision": "\xff\xfe"}')),
    Flaw("config_deeply_nested", DAMAGED, [CONFIG], text(CONFIG, b'{"r": ' + b"[" * 20000)),
    Flaw("config_array", INVALID, [CONFIG], text(CONFIG, b'[{"peft_type": "LORA"}]\n')),
    Flaw("config_missing", ABSENT, [CONFIG], text(CONFIG, None)),
    Flaw("weights_missing", DAMAGED, [WEIGHTS], text(WEIGHTS, None)),
]

TENSORS = [
    Flaw("a_missing", DAMAGED, ["layers.1.self_attn.q_proj"], drop(Q1A)),
    Flaw("b_missing", DAMAGED, ["layers.1.self_attn.q_proj"], drop(Q1B)),
    Flaw("layer_missing", DAMAGED, ["layers.1.self_attn.q_proj"], drop(Q1A, Q1B)),
    Flaw("target_without_tensors", DAMAGED, ["k_proj"], config(target_modules=["q_proj", "k_proj", "v_proj"])),
    Flaw("all_linear_half_there", DAMAGED, ["k_proj"], config(target_modules="all-linear")),
    Flaw("pair_of_two_ranks", DAMAGED, ["layers.0.self_attn.q_proj"], put(Q0B, (HIDDEN, 3))),
    Flaw("a_wrong_width", INVALID, ["layers.0.self_attn.q_proj", "30"], put(Q0A, (RANK, 30))),
    Flaw("b_wrong_width", INVALID, ["layers.0.self_attn.q_proj", "40"], put(Q0B, (40, RANK))),
    Flaw("a_transposed", INVALID, ["layers.0.self_attn.q_proj"], put(Q0A, (HIDDEN, RANK))),
    Flaw("a_one_dimension", INVALID, ["layers.0.self_attn.q_proj"], put(Q0A, (RANK * HIDDEN,))),
    Flaw("a_three_dimensions", INVALID, ["layers.0.self_attn.q_proj"], put(Q0A, (1, RANK, HIDDEN))),
    Flaw("a_of_no_rows", INVALID, ["layers.0.self_attn.q_proj"], both(put(Q0A, (0, HIDDEN)), put(Q0B, (HIDDEN, 0)))),
    Flaw("nan_in_a", DAMAGED, [Q0A], poke(Q0A, float("nan"))),
    Flaw("inf_in_b", DAMAGED, [Q1B], poke(Q1B, float("inf"))),
    Flaw("minus_inf_in_a", DAMAGED, [Q1A], poke(Q1A, float("-inf"))),
    Flaw("layer_the_base_lacks", INVALID, ["layers.7.self_attn.q_proj"], both(
        put(site(7, "q_proj") + ".lora_A.weight", (RANK, HIDDEN)), put(site(7, "q_proj") + ".lora_B.weight", (HIDDEN, RANK)))),
    Flaw("module_the_base_lacks", INVALID, ["self_attn.c_attn"], both(
        put(site(0, "c_attn") + ".lora_A.weight", (RANK, HIDDEN)), put(site(0, "c_attn") + ".lora_B.weight", (HIDDEN, RANK)))),
    Flaw("tensor_not_targeted", INVALID, ["layers.0.self_attn.k_proj"], both(
        put(site(0, "k_proj") + ".lora_A.weight", (RANK, HIDDEN)), put(site(0, "k_proj") + ".lora_B.weight", (HIDDEN, RANK)))),
    Flaw("layer_not_included", INVALID, ["layers.1.self_attn"], config(layers_to_transform=[0])),
    Flaw("tensor_of_no_meaning", INVALID, ["lora_C"], put(site(0, "q_proj") + ".lora_C.weight", (RANK, RANK))),
    Flaw("magnitude_without_use_dora", INVALID, ["lora_magnitude_vector"], put(site(0, "q_proj") + ".lora_magnitude_vector", (HIDDEN,))),
    Flaw("layer_number_too_large", INVALID, ["99999999999999999999"], both(
        put(site(99999999999999999999, "q_proj") + ".lora_A.weight", (RANK, HIDDEN)),
        put(site(99999999999999999999, "q_proj") + ".lora_B.weight", (HIDDEN, RANK)))),
    Flaw("two_names_of_one_site", DAMAGED, ["layers.0.self_attn.q_proj"],
         put(Q0A.removeprefix("base_model.model."), (RANK, HIDDEN))),
    Flaw("embedding_names_on_a_linear", INVALID, ["lora_embedding_A"], both(
        drop(Q0A, Q0B), put(site(0, "q_proj") + ".lora_embedding_A", (RANK, HIDDEN)),
        put(site(0, "q_proj") + ".lora_embedding_B", (HIDDEN, RANK)))),
    Flaw("embedding_of_another_vocabulary", INVALID, ["embed_tokens", "104"], both(
        config(target_modules=["q_proj", "v_proj", "embed_tokens"]),
        put(EMBED + ".lora_embedding_A", (RANK, 104)), put(EMBED + ".lora_embedding_B", (HIDDEN, RANK)))),
    Flaw("embedding_table_too_narrow", INVALID, ["embed_tokens.weight"], both(
        config(modules_to_save=["embed_tokens"]), put(EMBED + ".weight", (VOCAB, HIDDEN - 1)))),
    Flaw("embedding_table_of_more_tokens", INVALID, [f"tokens {VOCAB}..{VOCAB}", "in the head: 0"], both(
        config(modules_to_save=["embed_tokens"]), put(EMBED + ".weight", (VOCAB + 1, HIDDEN)))),
    Flaw("embedding_table_with_nan", DAMAGED, ["embed_tokens.weight"], both(
        config(modules_to_save=["embed_tokens"]), put(EMBED + ".weight", (VOCAB, HIDDEN), math.nan))),
    Flaw("saved_module_missing", DAMAGED, ["lm_head", "modules_to_save"], config(modules_to_save=["lm_head"])),
    Flaw("saved_module_unknown", UNIMPLEMENTED, ["score"], config(modules_to_save=["score"])),
    Flaw("saved_norm_of_another_width", INVALID, ["model.norm.weight"], both(
        config(modules_to_save=["model.norm"]), put("base_model.model.model.norm.weight", (HIDDEN + 1,)))),
    Flaw("saved_norm_with_a_bias", INVALID, ["model.norm.bias"], both(
        config(modules_to_save=["model.norm"]), put("base_model.model.model.norm.weight", (HIDDEN,)),
        put("base_model.model.model.norm.bias", (HIDDEN,)))),
    Flaw("trainable_tokens_missing", DAMAGED, ["trainable_token_indices"], config(trainable_token_indices=[3, 9])),
    Flaw("trainable_tokens_fewer", INVALID, ["trainable_tokens_delta"], both(
        config(trainable_token_indices=[3, 9]), put(EMBED + TOKEN_ROWS, (1, HIDDEN)))),
    Flaw("trainable_tokens_twice", INVALID, ["trainable_token_indices: 9"], both(
        config(trainable_token_indices=[9, 9]), put(EMBED + TOKEN_ROWS, (2, HIDDEN)))),
    Flaw("trainable_tokens_too_large", INVALID, [f"trainable_token_indices: {VOCAB + 40}"], both(
        config(trainable_token_indices=[3, VOCAB + 40]), put(EMBED + TOKEN_ROWS, (2, HIDDEN)))),
    Flaw("own_token_without_a_head", INVALID, [f"tokens {VOCAB}..{VOCAB}", "in the head: 0"], both(
        config(trainable_token_indices=[3, VOCAB]), put(EMBED + TOKEN_ROWS, (2, HIDDEN)))),
    Flaw("own_tokens_of_two_sizes", INVALID, ["in the embedding: 2", "in the head: 3"], both(
        config(modules_to_save=["embed_tokens", "lm_head"]), put(EMBED + ".weight", (VOCAB + 2, HIDDEN)),
        put("base_model.model.lm_head.weight", (VOCAB + 3, HIDDEN)))),
    Flaw("vocabulary_smaller_than_the_bases", UNIMPLEMENTED, ["embed_tokens", "smaller", str(VOCAB - 1)], both(
        config(modules_to_save=["embed_tokens"]), put(EMBED + ".weight", (VOCAB - 1, HIDDEN)))),
    Flaw("own_tokens_of_another_width", INVALID, ["embed_tokens", str(HIDDEN + 1)], both(
        config(modules_to_save=["embed_tokens"]), put(EMBED + ".weight", (VOCAB + 2, HIDDEN + 1)))),
    Flaw("trainable_tokens_not_in_the_config", INVALID, ["trainable_token_indices"], put(EMBED + TOKEN_ROWS, (2, HIDDEN))),
    Flaw("trainable_tokens_of_strings", INVALID, ["trainable_token_indices"], config(trainable_token_indices=["a"])),
    Flaw("trainable_tokens_and_lora", UNIMPLEMENTED, ["trainable_token_indices"], both(
        config(target_modules=["q_proj", "v_proj", "embed_tokens"], trainable_token_indices=[3]),
        put(EMBED + ".lora_embedding_A", (RANK, VOCAB)), put(EMBED + ".lora_embedding_B", (HIDDEN, RANK)),
        put(EMBED + TOKEN_ROWS, (1, HIDDEN)))),
    Flaw("norm_replaced", INVALID, ["model.norm.weight"], put("base_model.model.model.norm.weight", (HIDDEN,))),
]

ACCEPTED = [
    Flaw("control", OK, [], lambda folder: None),
    Flaw("unknown_keys_unset", OK, [], config(
        use_foo_lora=False, foo_config=None, foo_pattern={}, foo_list=[], foo_name="")),
    Flaw("keys_without_effect", OK, [], config(
        lora_dropout=0.3, inference_mode=False, revision="main", task_type=None, loftq_config={"loftq_bits": 4},
        auto_mapping={"base_model_class": "LlamaForCausalLM", "parent_library": "transformers"},
        megatron_core="megatron.core", base_model_name_or_path="elsewhere/other-name", init_lora_weights="gaussian",
        fan_in_fan_out=True)),
    Flaw("init_eva", OK, [], config(init_lora_weights="eva", eva_config={"rho": 2.0, "tau": 0.99})),
    Flaw("init_orthogonal", OK, [], config(init_lora_weights="orthogonal")),
    Flaw("init_false", OK, [], config(init_lora_weights=False)),
    Flaw("old_config", OK, [], lambda folder: keep_only(folder, [
        "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "lora_alpha", "lora_dropout",
        "modules_to_save", "peft_type", "r", "target_modules", "task_type"])),
]


def keep_only(folder: Folder, keys: list) -> None:
    folder.config = {k: folder.config[k] for k in keys}


def write_folder(out: pathlib.Path, flaw: Flaw, template: dict) -> None:
    folder = sound(template)
    flaw.change(folder)
    out.mkdir(parents=True)
    write_json(out / CONFIG, folder.config)
    (out / WEIGHTS).write_bytes(safetensors_bytes(*pack_f32(folder.tensors)))
    for name, content in folder.files.items():
        (out / name).unlink(missing_ok=True)
        if content is not None:
            (out / name).write_bytes(content)
    write_expect(out, flaw.code, flaw.names)


def write_expect(out: pathlib.Path, code: str, names: list, base: str = BASE) -> None:
    write_json(out / "expect.json", {"base": base, "code": code, "names": names})


def write_container(out: pathlib.Path, name: str, make, template: dict) -> None:
    folder = sound(template)
    content, code, names = make(*pack_f32(folder.tensors))
    (out / name).mkdir()
    write_json(out / name / CONFIG, folder.config)
    (out / name / WEIGHTS).write_bytes(content)
    write_expect(out / name, code, [WEIGHTS, *names])


def write_pickle(out: pathlib.Path, name: str, make, code: str, names: list, template: dict) -> None:
    folder = sound(template)
    (out / name).mkdir()
    write_json(out / name / CONFIG, folder.config)
    (out / name / PICKLED).write_bytes(make(folder.tensors))
    write_expect(out / name, code, [PICKLED, *names])


def write_all(here: pathlib.Path) -> None:
    template = read_json(here / BASE / "adapters" / "q_v" / CONFIG)
    for place, flaws in ((here / "refused", CONFIGS + TENSORS), (here / "accepted", ACCEPTED)):
        shutil.rmtree(place, ignore_errors=True)
        for flaw in flaws:
            write_folder(place / flaw.name, flaw, template)
    for name, make in refused_containers.CONTAINERS.items():
        write_container(here / "refused", name, make, template)
    for name, (make, code, names) in refused_pickles.PICKLES.items():
        write_pickle(here / "refused", name, make, code, names, template)
    write_peft_made(here / BASE / "model", here / "refused", write_expect)
    for flaw in ACCEPTED:  # peft must read them, and alike: what is odd about them changes nothing.
        logits = oracle.log_softmax_rows(oracle.load(here / BASE / "model", here / "accepted" / flaw.name), [1, 5, 9, 13])
        control = logits if flaw.name == "control" else control
        if not torch.equal(logits, control):
            raise SystemExit(f"accepted/{flaw.name} answers differently from the control")
    print(f"refused: {len(list((here / 'refused').iterdir()))}, accepted: {len(ACCEPTED)}")
