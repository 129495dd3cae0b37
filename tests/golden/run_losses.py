#!/usr/bin/env python
"""Writes tests/golden/training_runs/cases.json: losses of user-written training loops by peft and torch's autograd.

Each case begins from the adapter of tests/golden/training/llama3_lora (or _dora) and takes three steps of AdamW; a step
is two backward passes whose gradients add up. Old log-probabilities are those of the adapter at its beginning, moved a
little, so that some ratios lie beyond ppo's clips.
"""

import json
import pathlib

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
STEPS = 3
OPTIMIZER = {"learning_rate": 5e-3, "betas": [0.9, 0.95], "epsilon": 1e-12, "weight_decay": 0.01, "max_grad_norm": 1.0}
CASES = [("cross_entropy", "llama3_lora"), ("importance_sampling", "llama3_lora"), ("ppo", "llama3_lora"), ("ppo", "llama3_dora")]
CLIP = (0.8, 1.2)


def target_logprobs(model, datum):
    logits = model(input_ids=torch.tensor([datum["token_ids"]]), use_cache=False).logits[0].float()
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(datum["target_ids"])[:, None])[:, 0]


def loss_of(kind, logprobs, datum):
    weights = torch.tensor(datum["weights"])
    if kind == "cross_entropy":
        return -(weights * logprobs).sum()
    gains = weights * torch.tensor(datum["advantages"])
    ratios = torch.exp(logprobs - torch.tensor(datum["old_logprobs"]))
    if kind == "importance_sampling":
        return -(gains * ratios).sum()
    return -torch.minimum(gains * ratios, gains * ratios.clamp(*CLIP)).sum()


def draw_data(model, vocab, generator, kind):
    data = []
    for _ in range(4):
        tokens = int(torch.randint(3, 12, (1,), generator=generator))
        ids = torch.randint(3, vocab, (tokens + 1,), generator=generator).tolist()
        datum = {"token_ids": ids[:-1], "target_ids": ids[1:]}
        datum["weights"] = torch.randint(0, 3, (tokens,), generator=generator).mul(0.5).tolist()
        if kind != "cross_entropy":
            datum["advantages"] = torch.randn(tokens, generator=generator).tolist()
            with torch.no_grad():
                moved = target_logprobs(model, datum) + 0.3 * torch.randn(tokens, generator=generator)
            datum["old_logprobs"] = moved.tolist()
        data.append(datum)
    return data


def run(kind, trace):
    folder = HERE / "training" / trace
    base = AutoModelForCausalLM.from_pretrained(HERE / "llama3/model", dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)
    model.eval()
    generator = torch.Generator().manual_seed(17)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=OPTIMIZER["learning_rate"], betas=tuple(OPTIMIZER["betas"]),
                                  eps=OPTIMIZER["epsilon"], weight_decay=OPTIMIZER["weight_decay"])
    steps = []
    for _ in range(STEPS):
        calls = []
        for _ in range(2):
            data = draw_data(model, base.config.vocab_size, generator, kind)
            scores = [target_logprobs(model, datum) for datum in data]
            loss = sum(loss_of(kind, logprobs, datum) for logprobs, datum in zip(scores, data))
            loss.backward()
            calls.append({"data": data, "loss": loss.item(), "logprobs": [s.detach().tolist() for s in scores]})
        norm = torch.nn.utils.clip_grad_norm_(parameters, OPTIMIZER["max_grad_norm"]).item()
        optimizer.step()
        optimizer.zero_grad()
        steps.append({"calls": calls, "grad_norm": norm})
    return {"loss": kind, "trace": trace, "optimizer": OPTIMIZER, "steps": steps}


def main() -> None:
    torch.set_num_threads(1)
    folder = HERE / "training_runs"
    folder.mkdir(exist_ok=True)
    cases = [json.dumps(run(kind, trace)) for kind, trace in CASES]
    (folder / "cases.json").write_text("[\n" + ",\n".join(cases) + "\n]\n")


if __name__ == "__main__":
    main()
