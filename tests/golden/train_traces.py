#!/usr/bin/env python
"""Writes tests/golden/training: twenty steps of training by peft on golden bases, each loss and gradient norm.

  train_traces.py                 every trace
  train_traces.py --trace NAME    one (repeatable)

The loop is plain: each sequence by itself, without padding, in fp32 with eager attention and torch's own optimizers.
A trace is a folder: adapter/ is what training began from (as peft saved it, B not zero), data.jsonl what it was
trained on in order, trace.json the settings and what came out.
"""

import argparse
import json
import pathlib
import shutil

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM, get_scheduler

HERE = pathlib.Path(__file__).parent
STEPS = 20
EXAMPLES = 24

# What every trace has unless it says otherwise. The names are those of the C++ test.
DEFAULTS = {
    "base": "llama3", "rank": 4, "alpha": 8.0, "targets": "all-linear", "dora": False, "rslora": False,
    "rank_pattern": {}, "alpha_pattern": {}, "optimizer": "adamw", "learning_rate": 2e-3, "betas": [0.9, 0.999],
    "epsilon": 1e-8, "weight_decay": 0.01, "max_grad_norm": 1.0, "momentum": 0.0, "lora_plus_ratio": 1.0,
    "schedule": "linear", "warmup_steps": 3, "batch_size": 4, "micro_batch_size": 2, "normalization": "token_mean",
    "init": "given", "dropout": 0.0, "seed": 5, "bias": "none", "modules_to_save": [], "trainable_tokens": [], "pad_token": -1,
}
TOKENS = [77, 5, 41, 40, 17]  # in no order, as a user may list them
TRACES = {
    "llama3_lora": {},
    "llama3_dora": {"dora": True},
    "llama3_rslora_patterns": {
        "rslora": True, "rank_pattern": {"q_proj": 7, "layers.1.mlp.down_proj": 2}, "alpha_pattern": {"v_proj": 5.0},
        "normalization": "micro_batch_mean", "schedule": "cosine", "micro_batch_size": 1,
    },
    "llama3_few_modules": {"targets": ["v_proj", "down_proj"], "max_grad_norm": 0.0, "schedule": "constant", "warmup_steps": 0},
    "llama3_sgd": {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "micro_batch_size": 4},
    "llama3_lora_plus": {"lora_plus_ratio": 8.0, "learning_rate": 5e-4},
    "llama3_lora_plus_dora": {"lora_plus_ratio": 8.0, "learning_rate": 5e-4, "dora": True, "targets": ["v_proj", "embed_tokens", "lm_head"]},
    "opt_lora_plus_all": {
        "base": "opt", "lora_plus_ratio": 4.0, "learning_rate": 2e-3, "weight_decay": 0.5, "bias": "all",
        "targets": ["q_proj", "fc1", "embed_tokens"],
    },
    "phi_lora_plus_saved": {
        "base": "phi", "lora_plus_ratio": 4.0, "learning_rate": 5e-4, "weight_decay": 0.5, "targets": ["q_proj"],
        "modules_to_save": ["layernorm", "lm_head"],
    },
    "qwen3_lora_plus_saved": {
        "base": "qwen3", "lora_plus_ratio": 4.0, "learning_rate": 5e-4, "weight_decay": 0.5, "targets": ["q_proj"],
        "modules_to_save": ["norm", "embed_tokens"],
    },
    "llama3_pissa": {"init": "pissa"},
    "llama3_olora": {"init": "olora", "learning_rate": 5e-4},
    "llama3_rslora_pissa": {"init": "pissa", "rslora": True, "targets": ["q_proj", "up_proj", "lm_head"]},
    "llama_linear_pissa_dora": {"base": "llama_linear", "init": "pissa", "dora": True, "targets": ["q_proj", "down_proj"]},
    "llama3_olora_dora_dropout": {
        "init": "olora", "dora": True, "learning_rate": 5e-4, "dropout": 0.2, "micro_batch_size": 1, "targets": ["v_proj", "up_proj"],
    },
    "llama3_pissa_embedding": {"init": "pissa", "targets": ["embed_tokens", "k_proj"]},
    "qwen2_lora_only": {"base": "qwen2", "bias": "lora_only"},
    "llama_linear_biases": {"base": "llama_linear", "bias": "all", "targets": ["v_proj", "down_proj"]},
    "opt_biases": {"base": "opt", "bias": "all", "targets": ["v_proj", "fc2"]},
    "opt_post_biases": {"base": "opt_post", "bias": "all", "targets": ["q_proj"], "dora": True},
    "phi_biases": {"base": "phi", "bias": "all", "targets": ["q_proj", "fc1", "lm_head"]},
    "llama3_saved_tables": {"targets": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "llama3_saved_head": {"targets": ["v_proj", "embed_tokens"], "modules_to_save": ["lm_head"], "optimizer": "sgd", "learning_rate": 0.05},
    "qwen2_saved_embedding": {"base": "qwen2", "targets": ["v_proj"], "modules_to_save": ["embed_tokens"]},
    "qwen2_saved_tables": {"base": "qwen2", "targets": ["v_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "gemma2_saved_embedding": {"base": "gemma2", "targets": ["o_proj"], "modules_to_save": ["embed_tokens"]},
    "phi_saved_head_and_norms": {"base": "phi", "targets": ["dense"], "modules_to_save": ["lm_head", "layernorm"]},
    "llama3_saved_norms": {"targets": ["o_proj", "up_proj"], "modules_to_save": ["norm"], "dora": True},
    "qwen3_saved_norms": {"base": "qwen3", "targets": ["k_proj"], "modules_to_save": ["norm"]},
    "gemma2_saved_norms": {"base": "gemma2", "targets": ["down_proj"], "modules_to_save": ["norm"]},
    "gemma3_saved_head_norms": {"base": "gemma3", "targets": ["o_proj"], "modules_to_save": ["q_norm", "k_norm"]},
    "opt_saved_norms": {"base": "opt", "targets": ["k_proj"], "modules_to_save": ["layer_norm"], "bias": "lora_only"},
    "opt_post_saved_norms": {"base": "opt_post", "targets": ["out_proj"], "modules_to_save": ["layer_norm"]},
    "llama3_saved_final_norm": {"targets": ["lm_head"], "modules_to_save": ["model.norm"]},
    "llama3_tokens": {"targets": ["q_proj", "v_proj"], "trainable_tokens": TOKENS},
    "llama3_tokens_of_both": {"targets": ["k_proj"], "trainable_tokens": {"embed_tokens": TOKENS, "lm_head": [8, 90, 5]}},
    "qwen2_tokens": {"base": "qwen2", "targets": ["q_proj"], "trainable_tokens": TOKENS},
    "gemma_tokens": {"base": "gemma", "targets": ["q_proj"], "trainable_tokens": TOKENS},
    "opt_post_tokens": {"base": "opt_post", "targets": ["q_proj", "project_in"], "trainable_tokens": TOKENS},
    "llama3_tokens_of_head": {"targets": ["k_proj"], "trainable_tokens": {"lm_head": [8, 90, 5]}},
    "qwen2_tokens_of_head": {"base": "qwen2", "targets": ["q_proj"], "trainable_tokens": {"lm_head": [17, 77, 31]}},
    "qwen2_tokens_below_head_pair": {"base": "qwen2", "targets": ["q_proj", "lm_head"], "trainable_tokens": TOKENS},
    # A token of the data is the padding's, whose row torch gives no gradient where it is looked up.
    "llama3_padding_pair": {"targets": ["q_proj", "embed_tokens"], "pad_token": 42},
    "llama3_padding_dora": {"targets": ["v_proj", "embed_tokens"], "dora": True, "pad_token": 42},
    "llama3_padding_saved": {"targets": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"], "pad_token": 42},
    "llama3_padding_tokens": {"targets": ["q_proj"], "trainable_tokens": TOKENS, "pad_token": 40},
    "gemma_padding_tokens": {"base": "gemma", "targets": ["q_proj"], "trainable_tokens": TOKENS, "pad_token": 40},
    "opt_lora_only": {"base": "opt", "bias": "lora_only", "dora": True},
    "llama3_dropout": {"dropout": 0.2, "micro_batch_size": 1},
    "llama3_dora_dropout": {"dora": True, "dropout": 0.2, "micro_batch_size": 1},
    "llama3_embedding_and_head": {"targets": ["q_proj", "embed_tokens", "lm_head"]},
    "llama3_dora_embedding": {"targets": ["q_proj", "embed_tokens"], "dora": True},
    "gemma2_dora_embedding": {"base": "gemma2", "targets": ["embed_tokens", "o_proj"], "dora": True},
    "gemma2_embedding": {"base": "gemma2", "targets": ["embed_tokens", "o_proj"]},
    "gemma2_lora": {"base": "gemma2"},
    "gemma3_lora": {"base": "gemma3"},
    "mistral_lora": {"base": "mistral"},
    "opt_lora": {"base": "opt"},
    "opt_post_lora": {"base": "opt_post"},
    "phi_dora": {"base": "phi", "dora": True},
    "phi3_lora": {"base": "phi3"},
    "qwen3_lora": {"base": "qwen3"},
    # Routed bases: attention, and the shared expert with its gate; the gradient goes through experts and routers.
    "mixtral_lora": {"base": "mixtral", "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},  # all-linear is experts too, in peft
    "qwen2_moe_lora": {"base": "qwen2_moe"},
    "qwen3_moe_dora": {"base": "qwen3_moe", "dora": True, "targets": ["q_proj", "k_proj", "o_proj"]},
}


SITES = {"q_proj": 0, "k_proj": 1, "v_proj": 2, "o_proj": 3, "gate_proj": 4, "up_proj": 5, "down_proj": 6}  # model/sites.h
NUM_SITES = 28
DROPOUT_STREAM = 2


def mix_seed(seed: int, counter: int) -> int:
    """splitmix64, as adapters/train/random_order.h."""
    mask = 2**64 - 1
    x = (seed + 0x9E3779B97F4A7C15 * (counter + 1)) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


class SeededDropout(torch.nn.Module):
    """Dropout whose masks are a function of seed, micro-batch and module, as the daemon's are: so that the two can be
    compared. What is done with the dropped input is peft's own business."""

    micro_batch = 0  # counts sequences: each is a micro-batch of its own

    def __init__(self, p: float, seed: int, layer: int, site: int):
        super().__init__()
        self.p, self.seed, self.place = p, seed, (layer + 1) * NUM_SITES + site

    def forward(self, x):
        if not self.training:
            return x
        seed = mix_seed(mix_seed(mix_seed(self.seed, DROPOUT_STREAM), SeededDropout.micro_batch), self.place)
        mask = torch.empty_like(x).bernoulli_(1 - self.p, generator=torch.Generator().manual_seed(seed))
        return x * mask.div_(1 - self.p)


def seed_dropout(model, spec: dict) -> None:
    SeededDropout.micro_batch = 0
    for name, module in model.named_modules():
        if hasattr(module, "lora_dropout"):
            parts = name.split(".")
            layer = int(parts[parts.index("layers") + 1])
            module.lora_dropout["default"] = SeededDropout(spec["dropout"], spec["seed"], layer, SITES[parts[-1]])


def draw_examples(vocab: int, seed: int) -> list:
    """Sequences whose second half follows from the first, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(EXAMPLES):
        half = int(torch.randint(2, 20, (1,), generator=generator))
        ids = torch.randint(3, vocab, (half,), generator=generator).tolist()
        ids = ids + ids[::-1]
        labels = [-100] * half + ids[half:]
        if half % 5 == 0:
            labels[half + 1] = -100
        examples.append({"input_ids": ids, "labels": labels})
    return examples


def cross_entropy_sum(model, example: dict) -> tuple:
    logits = model(input_ids=torch.tensor([example["input_ids"]]), use_cache=False).logits[0].float()
    targets = torch.tensor(example["labels"])[1:]
    return F.cross_entropy(logits[:-1], targets, ignore_index=-100, reduction="sum"), int((targets != -100).sum())


def optimizer_of(model, spec: dict):
    adam = {"betas": tuple(spec["betas"]), "eps": spec["epsilon"]}
    if spec["lora_plus_ratio"] != 1.0:
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=spec["learning_rate"], loraplus_lr_ratio=spec["lora_plus_ratio"],
            loraplus_weight_decay=spec["weight_decay"], **adam,
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    common = {"lr": spec["learning_rate"], "weight_decay": spec["weight_decay"]}
    if spec["optimizer"] == "sgd":
        return torch.optim.SGD(parameters, momentum=spec["momentum"], **common)
    return torch.optim.AdamW(parameters, **adam, **common)


def move_replacements(model) -> None:
    """What replaces a part of the base begins as that part; a trace begins a little beside it, as a job does that goes on
    from an adapter."""
    generator = torch.Generator().manual_seed(23)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ("modules_to_save" in name or "trainable_tokens_delta" in name):
                parameter.add_(0.05 * parameter.std() * torch.randn(parameter.shape, generator=generator))


def seed_embedding(model, spec: dict) -> None:
    """An embedding does not begin from the base's weights, whatever `init` says: its B is random, here and there alike."""
    pairs = sorted(name for name, module in model.named_modules() if hasattr(module, "lora_embedding_B"))
    for index, name in enumerate(pairs):
        for b in model.get_submodule(name).lora_embedding_B.values():
            b.data.normal_(generator=torch.Generator().manual_seed(mix_seed(spec["seed"], index)))


def train(model, spec: dict, examples: list) -> list:
    optimizer = optimizer_of(model, spec)
    scheduler = get_scheduler(spec["schedule"], optimizer, num_warmup_steps=spec["warmup_steps"], num_training_steps=STEPS)
    parameters = [p for p in model.parameters() if p.requires_grad]
    steps = []
    for step in range(STEPS):
        size, micro = spec["batch_size"], spec["micro_batch_size"]
        batch = [examples[(step * size + i) % len(examples)] for i in range(size)]
        tokens = sum(sum(label != -100 for label in e["labels"][1:]) for e in batch)
        total = 0.0
        for first in range(0, size, micro):
            sums, counts = zip(*[cross_entropy_sum(model, e) for e in batch[first : first + micro]])
            loss = sum(sums) / (tokens if spec["normalization"] == "token_mean" else sum(counts) * (size // micro))
            loss.backward()
            total += loss.item()
            SeededDropout.micro_batch += 1
        norm = torch.nn.utils.clip_grad_norm_(parameters, spec["max_grad_norm"] or float("inf")).item()
        steps.append({"loss": total, "grad_norm": norm, "learning_rate": optimizer.param_groups[0]["lr"]})
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return steps


def load_base(spec: dict):
    padding = {"pad_token_id": spec["pad_token"]} if spec.get("pad_token", -1) >= 0 else {}
    return AutoModelForCausalLM.from_pretrained(HERE / spec["base"] / "model", dtype=torch.float32, attn_implementation="eager",
                                                experts_implementation="eager", **padding)


def write_trace(name: str, spec: dict, folder: pathlib.Path):
    """Trains; the model as it is then, and what it was trained on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    base = load_base(spec)
    config = LoraConfig(
        task_type="CAUSAL_LM", bias=spec["bias"], r=spec["rank"], lora_alpha=spec["alpha"], lora_dropout=0.0, target_modules=spec["targets"],
        use_dora=spec["dora"], use_rslora=spec["rslora"], rank_pattern=dict(spec["rank_pattern"]),
        alpha_pattern=dict(spec["alpha_pattern"]), init_lora_weights=spec["init"] if spec["init"] != "given" else False,
        modules_to_save=spec["modules_to_save"] or None, trainable_token_indices=spec["trainable_tokens"] or None,
    )
    model = get_peft_model(base, config)
    model.eval()  # The base's own dropout (OPT has one) is no part of the comparison.
    if spec["dropout"]:
        model.train()
        seed_dropout(model, spec)
    if spec["init"] != "given":  # it is made from the base's weights, here and there
        seed_embedding(model, spec)
    else:
        move_replacements(model)
        model.save_pretrained(folder / "adapter")
        (folder / "adapter/README.md").unlink(missing_ok=True)
        saved = json.loads((folder / "adapter/adapter_config.json").read_text())
        saved["base_model_name_or_path"] = spec["base"]
        saved["target_modules"] = sorted(saved["target_modules"]) if isinstance(saved["target_modules"], list) else saved["target_modules"]
        (folder / "adapter/adapter_config.json").write_text(json.dumps(saved, indent=2) + "\n")
    examples = draw_examples(base.config.vocab_size, seed=11)
    (folder / "data.jsonl").write_text("".join(json.dumps(e) + "\n" for e in examples))
    steps = train(model, spec, examples)
    again = steps[18]  # the first step's examples for the last time
    if not again["loss"] < 0.999 * steps[0]["loss"]:
        raise SystemExit(f"{name}: the loss did not fall: {steps[0]['loss']} -> {again['loss']}")
    lines = ",\n".join("  " + json.dumps(step) for step in steps)
    (folder / "trace.json").write_text(f'{{"spec": {json.dumps(spec)},\n"steps": [\n{lines}\n]}}\n')
    print(f"{name}: {steps[0]['loss']:.4f} -> {again['loss']:.4f}")
    return model, examples


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trace", action="append", choices=TRACES)
    torch.set_num_threads(1)
    for name in parser.parse_args().trace or TRACES:
        write_trace(name, DEFAULTS | TRACES[name], HERE / "training" / name)


if __name__ == "__main__":
    main()
