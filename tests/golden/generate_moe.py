#!/usr/bin/env python
"""Writes moe_peft/: adapters in MoE-PEFT's own folders, and MoE-PEFT's answers. Run by scripts/golden-moe-env's python.

  generate_moe.py                everything
  generate_moe.py --base llama2  one base's adapters and cases

The bases are those of generate.py, in MoE-PEFT's models (moe_models.py). MoE-PEFT drops inputs of LoRA at inference too
(its Lora objects never hear of eval()), so the oracle reads each config with a dropout of next to nothing. Its switch
router answers nothing at inference; the oracle runs it as in training, without noise and without a capacity.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import types
import zlib

import moe_peft
import torch
from moe_peft.adapters import lora_config_factory
from moe_peft.common import LLMBatchConfig, LLMModelInput
from safetensors.torch import save_file

import moe_models
import oracle
from files import read_json, write_cases, write_json
from search import find_case, require_shift

HERE = pathlib.Path(__file__).parent
ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
PHI_ATTENTION, PHI_MLP = ["q_proj", "k_proj", "v_proj", "dense"], ["fc1", "fc2"]
PHI3_ATTENTION, PHI3_MLP = ["qkv_proj", "o_proj"], ["gate_up_proj", "down_proj"]
LENGTHS = [(7, 12), (40, 12), (2, 12), (17, 12), (1, 12)]  # Prompt tokens, tokens asked for.
NO_DROPOUT = 1e-30  # It refuses 0.


@dataclasses.dataclass
class Variant:
    name: str
    config: dict  # As in a job of MoE-PEFT.
    strength: float = 0.8  # Size of an update against the base weight's own output.
    edit_config: object = None  # dict -> dict, of what MoE-PEFT exports; after the answers.
    edit_key: object = None  # str -> str, of the tensors' names; after the answers.
    safetensors: bool = False  # As nobody writes it yet.


def lora(targets, r=4, alpha=8, **rest) -> dict:
    return dict(r=r, lora_alpha=alpha, lora_dropout=0.05, target_modules=targets, **rest)


def mixlora(targets, experts=4, **rest) -> dict:
    return lora(targets, **{"routing_strategy": "mixlora", "num_experts": experts, "top_k": 2} | rest)


def old_key(key: str) -> str:
    """The layout before MoE-PEFT's mixtral was called mixlora."""
    names = {"gate_proj": "w1_proj", "down_proj": "w2_proj", "up_proj": "w3_proj"}
    if ".mlp.moe_gate" in key:
        return key.replace(".mlp.moe_gate", ".gate")
    for new, old in names.items():
        if f".mlp.{new}.experts." in key:
            head, tail = key.split(f".mlp.{new}.experts.")
            expert, pair = tail.split(".", 1)
            return f"{head}.experts.{expert}.{old}.{pair}"
    return key


def old_config(config: dict) -> dict:
    return config | {"routing_strategy": "mixtral"}


TOP_K = [
    Variant("mixlora", mixlora(ATTENTION + MLP)),
    Variant("mixlora_of_all_experts", mixlora(MLP, experts=3, top_k=3, use_rslora=True)),
    Variant("mixlora_of_one_expert", mixlora(["q_proj", *MLP], experts=1, top_k=1)),
    Variant("mixlora_expert_lora", mixlora(
        ["v_proj", *MLP], r=2, alpha=6, experts=6, top_k=1,
        expert_lora={"r": 5, "lora_alpha": 15, "lora_dropout": 0.05, "use_rslora": True})),
    Variant("mixlora_activation", mixlora(MLP, act_fn="gelu_new")),
    Variant("mixlora_down_alone", mixlora(["o_proj", "down_proj"], experts=5, top_k=3), strength=1.5),
    Variant("mixlora_without_ffn", mixlora(["q_proj", "v_proj"])),
]
FORMS = [
    Variant("mixlora_old_keys", mixlora(ATTENTION + MLP, experts=3), edit_key=old_key, edit_config=old_config),
    Variant("mixlora_safetensors", mixlora(["k_proj", *MLP], experts=2, top_k=1), safetensors=True),
]
DYNAMIC = [
    Variant("mixlora_dynamic", mixlora(ATTENTION + MLP, experts=6, routing_strategy="mixlora-dynamic", top_p=0.6)),
    Variant("mixlora_dynamic_divided", mixlora(
        MLP, experts=5, routing_strategy="mixlora-dynamic", top_p=0.7, temperature=1.3)),
    Variant("mixlora_dynamic_all", mixlora(MLP, experts=4, routing_strategy="mixlora-dynamic", top_p=0.5, temperature=4.0)),
]
SWITCH = Variant("mixlora_switch", mixlora(ATTENTION + MLP, routing_strategy="mixlora-switch", expert_capacity=8))
LORAMOE = Variant("loramoe", lora(ATTENTION + MLP, r=3, routing_strategy="loramoe", num_experts=4))
MOLA = [
    Variant("mola", lora(ATTENTION + MLP, r=3, routing_strategy="mola", num_experts=5, top_k=2)),
    Variant("mola_some", lora(["q_proj", "down_proj"], r=6, routing_strategy="mola", num_experts=4, top_k=3, use_rslora=True)),
]
PLAIN = [
    Variant("lora", lora(ATTENTION + MLP)),
    Variant("dora_without_magnitudes", lora(["q_proj", "v_proj", "up_proj"], use_dora=True)),
]


def of_each_routing(attention: list, mlp: list) -> list:
    """One of each, for a base whose modules have these names."""
    dynamic = dict(experts=5, routing_strategy="mixlora-dynamic", top_p=0.6)
    return [
        Variant("mixlora", mixlora(attention + mlp)),
        Variant("mixlora_dynamic", mixlora([attention[0], *mlp], **dynamic)),
        Variant("loramoe", lora([attention[-1], *mlp], r=3, routing_strategy="loramoe", num_experts=3)),
        Variant("lora", lora(attention + mlp)),
    ]


BY_BASE = {
    "llama2": [*TOP_K, *FORMS, *DYNAMIC, SWITCH, LORAMOE, *MOLA, *PLAIN],
    "qwen2": [TOP_K[0], TOP_K[5], DYNAMIC[0], SWITCH, LORAMOE, MOLA[0]],
    "gemma": [TOP_K[0], TOP_K[4], LORAMOE],
    "mistral": of_each_routing(ATTENTION, MLP),
    "gemma2": of_each_routing(ATTENTION, MLP),
    "phi": [
        *of_each_routing(PHI_ATTENTION, PHI_MLP),
        Variant("mixlora_first_alone", mixlora(["fc1"], experts=3, top_k=1, act_fn="relu")),
        Variant("mixlora_second_alone", mixlora(["dense", "fc2"], experts=3), strength=1.5),
        Variant("mixlora_switch", mixlora(PHI_MLP, routing_strategy="mixlora-switch", expert_capacity=8)),
        Variant("mola", lora(["q_proj", "dense", *PHI_MLP], r=3, routing_strategy="mola", num_experts=4, top_k=2)),
    ],
    "phi3": [
        *of_each_routing(PHI3_ATTENTION, PHI3_MLP),
        Variant("mixlora_gate_up_alone", mixlora(["gate_up_proj"], experts=3, top_k=1, act_fn="gelu_new")),
        Variant("mola", lora(PHI3_ATTENTION + PHI3_MLP, r=3, routing_strategy="mola", num_experts=4, top_k=2)),
    ],
}


class Oracle:
    """MoE-PEFT's model, called as transformers' is."""

    def __init__(self, base: str, dtype: torch.dtype = torch.float32):
        with tempfile.TemporaryDirectory() as folder:
            for file in (HERE / base / "model").iterdir():
                os.symlink(file, pathlib.Path(folder) / file.name)
            config = read_json(HERE / base / "config_v4.json")
            (pathlib.Path(folder) / "config.json").unlink()
            write_json(pathlib.Path(folder) / "config.json", moe_models.readable(config))
            self.model = moe_models.load(folder, config, dtype)
        self.config = types.SimpleNamespace(vocab_size=self.model.vocab_size_, rope_parameters=None)
        self.model.init_adapter(moe_peft.AdapterConfig(adapter_name="base"))
        self.adapter = "base"

    def init(self, config: dict, weights=None) -> None:
        config = config | {"lora_dropout": NO_DROPOUT}
        if "expert_lora" in config:
            config["expert_lora"] = config["expert_lora"] | {"lora_dropout": NO_DROPOUT}
        adapter = lora_config_factory(config)
        adapter.adapter_name = self.adapter = "adapter"
        self.model.init_adapter(adapter, weights)

    def weights(self) -> dict:
        return self.model.get_adapter_weight_dict(self.adapter)

    def is_switch(self) -> bool:
        return getattr(self.model.adapter_configs_[self.adapter], "routing_strategy_", None) == "mixlora-switch"

    @torch.no_grad()
    def __call__(self, input_ids, use_cache):
        switch = self.is_switch()
        if switch:
            for layer in self.model.model_.layers_:
                router = layer.mlp_.moes_[self.adapter]
                router.jitter_noise_, router.expert_capacity_ = 0.0, 10**9
        output = self.model.forward(LLMModelInput(
            batch_configs_=[LLMBatchConfig(self.adapter, 0, 1)], batch_tokens_=input_ids.tolist(), inference_mode_=not switch))
        return types.SimpleNamespace(logits=output[0].logits)


def draw_weights(oracle: Oracle, config: dict, strength: float, seed: int) -> None:
    """Random pairs, the update `strength` times the base weight's own output, and routers that take sides."""
    linears = {}
    for number, layer in enumerate(oracle.model.model_.layers_):
        for modules in layer.state_dict():
            for name, linear in modules.items():
                linears[f"layers.{number}.", f".{name}."] = linear
    for key, tensor in sorted(oracle.weights().items()):
        generator = torch.Generator().manual_seed(seed * 2**32 + zlib.crc32(key.encode()))
        noise = torch.randn(tensor.shape, generator=generator)
        if "moe_gate" in key:
            tensor.data.copy_(1.5 * tensor.shape[1] ** -0.5 * noise)
            continue
        if ".lora_A." in key:
            tensor.data.copy_(tensor.shape[1] ** -0.5 * noise)
            continue
        linear = next(module for (layer, name), module in linears.items() if layer in key and name in key)
        pairs = [pair for pair in linear.loras_.values() if pair.lora_b_.weight is tensor]
        scaling, width = pairs[0].scaling_, linear.base_layer_.weight.std().item()
        tensor.data.copy_(strength * width * linear.in_features_**0.5 / (scaling * tensor.shape[1] ** 0.5) * noise)


def write_adapter(oracle: Oracle, base: str, variant: Variant, folder: pathlib.Path) -> None:
    """The folder as MoE-PEFT's trainer leaves it."""
    folder.mkdir(parents=True)
    oracle.init(variant.config)
    draw_weights(oracle, variant.config, variant.strength, seed=1)
    config = lora_config_factory(variant.config)
    if hasattr(config, "act_fn_"):
        config.act_fn_ = oracle.model.adapter_configs_[oracle.adapter].act_fn_
    exported = config.export() | {"base_model_name_or_path": f"golden/{base}", "task_type": "CAUSAL_LM"}
    with open(folder / "adapter_config.json", "w") as file:
        json.dump(exported, file, indent=4)
    torch.save(oracle.weights(), folder / "adapter_model.bin")


def load_adapter(base: str, folder: pathlib.Path, edit=lambda key, tensor: tensor) -> Oracle:
    """As MoE-PEFT's load_adapter reads it."""
    oracle = Oracle(base)
    weights = torch.load(folder / "adapter_model.bin", weights_only=False)
    oracle.init(read_json(folder / "adapter_config.json"), {key: edit(key, tensor) for key, tensor in weights.items()})
    return oracle


def adapter_cases(base: str, variant: Variant, index: int, folder: pathlib.Path) -> list:
    adapter = folder / "adapters" / variant.name
    write_adapter(Oracle(base), base, variant, adapter)
    model = load_adapter(base, adapter)
    cases = []
    for length, max_tokens in (LENGTHS[index % 5], LENGTHS[(index + 1) % 5]):
        case, _ = find_case(model, f"{variant.name}-{length}", variant.name, length, max_tokens, seed=5000 + index * 50 + length)
        cases.append(case)
    require_shift(f"{base}/{variant.name}", Oracle(base), cases)
    if variant.config.get("num_experts", 1) > 1 and variant.name != "mixlora_without_ffn":
        turned = load_adapter(base, adapter, lambda key, tensor: -tensor if "moe_gate" in key else tensor)
        if variant.config.get("top_k") != variant.config["num_experts"]:
            require_shift(f"{base}/{variant.name}: who is chosen", turned, cases)
    edit(variant, adapter)
    return cases


def edit(variant: Variant, folder: pathlib.Path) -> None:
    if variant.edit_config:
        write_json(folder / "adapter_config.json", variant.edit_config(read_json(folder / "adapter_config.json")))
    if variant.edit_key:
        weights = torch.load(folder / "adapter_model.bin", weights_only=False)
        torch.save({variant.edit_key(key): tensor for key, tensor in weights.items()}, folder / "adapter_model.bin")
    if variant.safetensors:
        weights = torch.load(folder / "adapter_model.bin", weights_only=False)
        save_file({key: tensor.detach() for key, tensor in weights.items()}, folder / "adapter_model.safetensors")
        (folder / "adapter_model.bin").unlink()


def write_base(base: str) -> None:
    print(base)
    folder = HERE / "moe_peft" / base
    shutil.rmtree(folder, ignore_errors=True)
    moe_models.require_base_answers(Oracle(base), read_json(HERE / base / "cases.json"))
    cases = []
    for index, variant in enumerate(BY_BASE[base]):
        cases += adapter_cases(base, variant, index, folder)
    write_cases(folder / "cases.json", cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", action="append", default=[], choices=list(BY_BASE))
    args = parser.parse_args()
    oracle.one_quiet_thread()
    for base in BY_BASE:
        if not args.base or base in args.base:
            write_base(base)


if __name__ == "__main__":
    main()
