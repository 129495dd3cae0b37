#!/usr/bin/env python
"""Writes moe_training/: twenty steps of training by MoE-PEFT on golden bases. Run by scripts/golden-moe-env's python.

  moe_train_traces.py                 every trace
  moe_train_traces.py --trace NAME    one (repeatable)
  moe_train_traces.py --bf16          beside each trace that is there, bf16.json: the losses on the base in bfloat16

The model, its losses and its routers' losses are MoE-PEFT's own; around them is a plain loop in fp32 with torch's AdamW.
A trace is a folder as train_traces.py makes it: adapter/ is what training began from, as MoE-PEFT exports it and with
what it leaves out of an export, data.jsonl what it was trained on in order, trace.json the settings and what came out.
Without noise: the inputs of LoRA are dropped with a chance of next to nothing (it refuses 0), routers have no jitter.
"""

import argparse
import json
import pathlib
import shutil

import torch
from moe_peft.adapters import lora_config_factory
from moe_peft.common import LLMBatchConfig, LLMModelInput
from transformers import get_scheduler

import oracle
from files import write_json
from generate_moe import ATTENTION, MLP, NO_DROPOUT, Oracle, draw_weights, lora, mixlora
from moe_examples import EXAMPLES, draw_examples

HERE = pathlib.Path(__file__).parent
STEPS = 20

DEFAULTS = {
    "base": "llama2", "strength": 0.3, "learning_rate": 2e-3, "weight_decay": 0.01, "max_grad_norm": 1.0,
    "schedule": "linear", "warmup_steps": 3, "batch_size": 4, "micro_batch_size": 2,
}
SMALL = {"r": 2, "alpha": 4}
TRACES = {
    "mixlora": {"adapter": mixlora(ATTENTION + MLP, **SMALL, router_aux_loss_coef=0.05)},
    "mixlora_of_three": {"adapter": mixlora(
        ["v_proj", "up_proj", "down_proj"], **SMALL, experts=5, top_k=3, router_aux_loss_coef=0.2,
        expert_lora={"r": 3, "lora_alpha": 9, "lora_dropout": NO_DROPOUT, "use_rslora": True})},
    "mixlora_qwen2": {"base": "qwen2", "adapter": mixlora(MLP, **SMALL, top_k=1, router_aux_loss_coef=0.05)},
    # Its routers' loss counts pads: one sequence at a time has none.
    "mixlora_dynamic": {"micro_batch_size": 1, "adapter": mixlora(
        ["q_proj", *MLP], **SMALL, experts=5, routing_strategy="mixlora-dynamic", top_p=0.6, router_aux_loss_coef=0.05)},
    "mixlora_dynamic_divided": {"micro_batch_size": 1, "adapter": mixlora(
        MLP, **SMALL, routing_strategy="mixlora-dynamic", top_p=0.7, temperature=1.3, router_aux_loss_coef=0.05)},
    "mixlora_switch": {"micro_batch_size": 1, "adapter": mixlora(
        ["o_proj", *MLP], **SMALL, routing_strategy="mixlora-switch", expert_capacity=5, jitter_noise=0.0,
        router_aux_loss_coef=0.05, router_z_loss_coef=0.02)},
    "loramoe": {"adapter": lora(["q_proj", "gate_proj", "down_proj"], **SMALL, routing_strategy="loramoe", num_experts=3)},
    "mola": {"adapter": lora(["v_proj", "up_proj", "down_proj"], **SMALL, routing_strategy="mola", num_experts=4, top_k=2)},
    "mola_router_loss": {"adapter": lora(
        ["q_proj", "up_proj"], **SMALL, routing_strategy="mola", num_experts=3, top_k=2, router_loss=True,
        router_aux_loss_coef=0.05)},
}
# Read by name from a job's config, not from an export's; lorad reads them there as well.
TRAINING_KEYS = ("router_loss", "router_aux_loss_coef", "router_z_loss_coef", "jitter_noise")


def forward(oracle: Oracle, batch: list):
    """MoE-PEFT's output for rows that are filled up at their ends, which its mask hides."""
    longest = max(len(example["input_ids"]) for example in batch)
    fill = lambda values, filler: values + [filler] * (longest - len(values))
    inputs = LLMModelInput(
        batch_configs_=[LLMBatchConfig(oracle.adapter, 0, len(batch))],
        batch_tokens_=[fill(e["input_ids"], 0) for e in batch],
        batch_labels_=[fill(e["labels"], -100) for e in batch],
        batch_masks_=[fill([1] * len(e["input_ids"]), 0) for e in batch])
    return oracle.model.forward(inputs)[0]


def train(oracle: Oracle, spec: dict, examples: list) -> list:
    parameters = [tensor for tensor in oracle.weights().values() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec["learning_rate"], weight_decay=spec["weight_decay"])
    scheduler = get_scheduler(spec["schedule"], optimizer, num_warmup_steps=spec["warmup_steps"], num_training_steps=STEPS)
    size, micro = spec["batch_size"], spec["micro_batch_size"]
    steps = []
    for step in range(STEPS):
        batch = [examples[(step * size + i) % len(examples)] for i in range(size)]
        loss = aux_loss = 0.0
        for first in range(0, size, micro):
            output = forward(oracle, batch[first : first + micro])
            share = micro / size
            total = output.loss * share
            loss += output.loss.item() * share
            if output.aux_loss is not None:
                total = total + output.aux_loss * share
                aux_loss += output.aux_loss.item() * share
            total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, spec["max_grad_norm"]).item()
        steps.append({"loss": loss, "aux_loss": aux_loss, "grad_norm": norm, "learning_rate": optimizer.param_groups[0]["lr"]})
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return steps


def write_adapter(oracle: Oracle, spec: dict, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True)
    exported = lora_config_factory(spec["adapter"]).export() | {
        "base_model_name_or_path": f"golden/{spec['base']}", "task_type": "CAUSAL_LM"}
    exported |= {key: spec["adapter"][key] for key in TRAINING_KEYS if key in spec["adapter"]}
    write_json(folder / "adapter_config.json", exported)
    torch.save(oracle.weights(), folder / "adapter_model.bin")


def write_trace(name: str, spec: dict) -> None:
    folder = HERE / "moe_training" / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(7)
    oracle = Oracle(spec["base"])
    oracle.init(spec["adapter"])
    draw_weights(oracle, spec["adapter"], spec["strength"], seed=1)
    write_adapter(oracle, spec, folder / "adapter")
    examples = draw_examples(oracle.config.vocab_size)
    (folder / "data.jsonl").write_text("".join(json.dumps(e) + "\n" for e in examples))
    steps = train(oracle, spec, examples)
    epoch = EXAMPLES // spec["batch_size"]
    first, last = (sum(step["loss"] for step in some) / epoch for some in (steps[:epoch], steps[-epoch:]))
    if not last < 0.99 * first:
        raise SystemExit(f"{name}: the loss did not fall: {first} -> {last}")
    settings = {key: value for key, value in spec.items() if key != "strength"}
    lines = ",\n".join("  " + json.dumps(step) for step in steps)
    (folder / "trace.json").write_text(f'{{"spec": {json.dumps(settings)},\n"steps": [\n{lines}\n]}}\n')
    print(f"{name}: {first:.4f} -> {last:.4f}, routers' {steps[0]['aux_loss']:.4f} -> {steps[-1]['aux_loss']:.4f}")


def write_bf16(name: str, spec: dict) -> None:
    """The same training, from the same start, on the base rounded to bfloat16, computed in it."""
    folder = HERE / "moe_training" / name
    torch.manual_seed(7)
    oracle = Oracle(spec["base"], torch.bfloat16)
    oracle.init(spec["adapter"], torch.load(folder / "adapter/adapter_model.bin", weights_only=False))
    examples = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    losses = [step["loss"] for step in train(oracle, spec, examples)]
    (folder / "bf16.json").write_text(json.dumps({"losses": losses}) + "\n")
    exact = [step["loss"] for step in json.loads((folder / "trace.json").read_text())["steps"]]
    print(f"{name}: bf16 is off by {sum(abs(a - b) for a, b in zip(losses, exact)) / len(exact):.5f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trace", action="append", choices=TRACES)
    parser.add_argument("--bf16", action="store_true")
    oracle.one_quiet_thread()
    arguments = parser.parse_args()
    write = write_bf16 if arguments.bf16 else write_trace
    for name in arguments.trace or TRACES:
        write(name, DEFAULTS | TRACES[name])


if __name__ == "__main__":
    main()
