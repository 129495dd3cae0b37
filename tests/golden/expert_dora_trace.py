#!/usr/bin/env python
"""Writes moe_training/mixlora_dora: twenty steps of MixLoRA whose experts are DoRA, by a plain loop in fp64.

MoE-PEFT neither saves nor trains magnitudes, so that it is no measure here. The loop is written from the formulas alone:
an expert's weight is m / n * (W + s B A), n the norms of its rows, which no gradient goes through (arXiv 2402.09353, 4.3);
routers and their loss are MixLoRA's. transformers' Llama around it, torch's AdamW. The folder is as
moe_train_traces.py makes them, in safetensors. Run by scripts/golden-env's python.
"""

import json
import pathlib
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, get_scheduler

from moe_examples import draw_examples

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "moe_training/mixlora_dora"
STEPS = 20
LORA = {"r": 2, "lora_alpha": 4}
EXPERT = {"r": 3, "lora_alpha": 6, "lora_dropout": 1e-30, "use_dora": True}
ADAPTER = {
    "bias": "none", "peft_type": "MIXLORA", **LORA, "lora_dropout": 1e-30, "routing_strategy": "mixlora", "num_experts": 4,
    "top_k": 2, "expert_lora": EXPERT, "target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"],
    "router_loss": True, "router_aux_loss_coef": 0.05, "task_type": "CAUSAL_LM", "base_model_name_or_path": "golden/llama2",
}
SPEC = {
    "base": "llama2", "learning_rate": 2e-3, "weight_decay": 0.01, "max_grad_norm": 1.0, "schedule": "linear",
    "warmup_steps": 3, "batch_size": 4, "micro_batch_size": 2, "adapter": ADAPTER,
}
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


class Leaves:
    """Every trained tensor by its name in the file; drawn in fp32, trained in fp64."""

    def __init__(self):
        self.all, self.generator = {}, torch.Generator().manual_seed(31)

    def add(self, name, shape, deviation, mean=0.0):
        drawn = mean + deviation * torch.randn(shape, generator=self.generator)
        self.all[name] = drawn.float().double().requires_grad_()
        return self.all[name]

    def pair(self, name, weight, rank):
        rows, columns = weight.shape
        a = self.add(f"{name}.lora_A.weight", (rank, columns), columns**-0.5)
        b = self.add(f"{name}.lora_B.weight", (rows, rank), 0.3 * weight.std().item() * columns**0.5 / rank**0.5)
        return a, b


class Query(torch.nn.Module):
    def __init__(self, base, leaves, name):
        super().__init__()
        self.base, self.scale = base, LORA["lora_alpha"] / LORA["r"]
        self.a, self.b = leaves.pair(name, base.weight, LORA["r"])

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.a.T) @ self.b.T


class Mixture(torch.nn.Module):
    def __init__(self, mlp, leaves, prefix, logits):
        super().__init__()
        self.mlp, self.logits, self.experts = mlp, logits, []
        self.router = leaves.add(f"{prefix}.moe_gate.weight", (ADAPTER["num_experts"], mlp.gate_proj.weight.shape[1]), 0.2)
        for expert in range(ADAPTER["num_experts"]):
            self.experts.append({})
            for projection in PROJECTIONS:
                name, weight = f"{prefix}.{projection}.experts.{expert}", getattr(mlp, projection).weight
                norms = weight.detach().norm(dim=1).float()
                a, b = leaves.pair(name, weight, EXPERT["r"])
                m = leaves.add(f"{name}.lora_magnitude_vector", norms.shape, 0.1 * norms.mean(), norms)
                self.experts[-1][projection] = (a, b, m)

    def weight(self, expert, projection):
        a, b, m = self.experts[expert][projection]
        merged = getattr(self.mlp, projection).weight + EXPERT["lora_alpha"] / EXPERT["r"] * b @ a
        return (m / merged.norm(dim=1).detach())[:, None] * merged

    def forward(self, x):
        logits = x @ self.router.T
        self.logits.append(logits.flatten(0, -2))
        weights, chosen = torch.softmax(logits, -1).topk(ADAPTER["top_k"])
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for expert in range(ADAPTER["num_experts"]):
            inner = F.silu(x @ self.weight(expert, "gate_proj").T) * (x @ self.weight(expert, "up_proj").T)
            share = (weights * (chosen == expert)).sum(-1, keepdim=True)
            out = out + share * (inner @ self.weight(expert, "down_proj").T)
        return out


def router_loss(logits):
    """Of all layers' rows together."""
    p = torch.softmax(torch.cat(logits), -1)
    chosen = F.one_hot(p.topk(ADAPTER["top_k"]).indices, p.shape[1]).double().sum(1)
    return ADAPTER["router_aux_loss_coef"] * p.shape[1] * (chosen.mean(0) * p.mean(0)).sum()


def losses_of(model, batch, logits):
    """Mean cross entropy of the batch's learnt tokens, and its routers' loss."""
    logits.clear()
    total, count = 0.0, 0
    for example in batch:
        out = model(input_ids=torch.tensor([example["input_ids"]]), use_cache=False).logits[0]
        labels = torch.tensor(example["labels"])[1:]
        total = total + F.cross_entropy(out[:-1], labels, ignore_index=-100, reduction="sum")
        count += int((labels != -100).sum())
    return total / count, router_loss(logits)


def train(model, leaves, examples, logits):
    parameters = list(leaves.all.values())
    optimizer = torch.optim.AdamW(parameters, lr=SPEC["learning_rate"], weight_decay=SPEC["weight_decay"])
    scheduler = get_scheduler(SPEC["schedule"], optimizer, num_warmup_steps=SPEC["warmup_steps"], num_training_steps=STEPS)
    size, micro = SPEC["batch_size"], SPEC["micro_batch_size"]
    steps = []
    for step in range(STEPS):
        batch = [examples[(step * size + i) % len(examples)] for i in range(size)]
        loss = aux_loss = 0.0
        for first in range(0, size, micro):
            of_data, of_routers = losses_of(model, batch[first : first + micro], logits)
            ((of_data + of_routers) * micro / size).backward()
            loss, aux_loss = loss + of_data.item() * micro / size, aux_loss + of_routers.item() * micro / size
        norm = torch.nn.utils.clip_grad_norm_(parameters, SPEC["max_grad_norm"]).item()
        steps.append({"loss": loss, "aux_loss": aux_loss, "grad_norm": norm, "learning_rate": optimizer.param_groups[0]["lr"]})
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return steps


def main() -> None:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(HERE / "llama2/model", dtype=torch.float64, attn_implementation="eager")
    model.requires_grad_(False)
    leaves, logits = Leaves(), []
    for number, layer in enumerate(model.model.layers):
        prefix = f"mixlora.layers.{number}"
        layer.self_attn.q_proj = Query(layer.self_attn.q_proj, leaves, f"{prefix}.self_attn.q_proj")
        layer.mlp = Mixture(layer.mlp, leaves, f"{prefix}.mlp", logits)
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "adapter").mkdir(parents=True)
    (FOLDER / "adapter/adapter_config.json").write_text(json.dumps(ADAPTER, indent=2) + "\n")
    save_file({name: leaf.detach().float() for name, leaf in leaves.all.items()}, FOLDER / "adapter/adapter_model.safetensors")
    examples = draw_examples(model.config.vocab_size)
    (FOLDER / "data.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    steps = train(model, leaves, examples, logits)
    lines = ",\n".join("  " + json.dumps(step) for step in steps)
    (FOLDER / "trace.json").write_text(f'{{"spec": {json.dumps(SPEC)},\n"steps": [\n{lines}\n]}}\n')
    print(f"mixlora_dora: {steps[0]['loss']:.4f} -> {steps[-2]['loss']:.4f}, routers' {steps[0]['aux_loss']:.4f}")


if __name__ == "__main__":
    main()
