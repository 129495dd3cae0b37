"""The training loop that the base and the adapters share: loss on answers only, AdamW with warm-up and cosine."""

import math
import os
import random
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads collapse when others use the cores

import torch

import tasks


ROW_TOKENS = 64


def make_batch(tokenizer, rows):
    """Packs rows [(prompt, answer)] without padding to speak of: several examples share one row of 64 tokens.

    Returns ids, positions [B, T]; mask [B, 1, T, T], true where an example's token may see another of its own;
    labels [B, T]: the next token where it belongs to an answer, else -100; weights [B, T] of the answer's tokens:
    one over the root of its length, so that long answers do not drown the short ones.
    """
    prompts = tokenizer([p for p, _ in rows]).input_ids
    answers = tokenizer([a for _, a in rows], add_special_tokens=False).input_ids
    examples = sorted(((p, a + [tokenizer.eos_token_id]) for p, a in zip(prompts, answers)),
                      key=lambda e: -len(e[0]) - len(e[1]))
    packed = []  # [(room left, [example])]
    for example in examples:
        size = len(example[0]) + len(example[1])
        for i, (room, held) in enumerate(packed):
            if size <= room:
                packed[i] = (room - size, held + [example])
                break
        else:
            packed.append((ROW_TOKENS - size, [example]))

    shape = (len(packed), ROW_TOKENS)
    ids = torch.full(shape, tokenizer.eos_token_id)
    positions = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, -100)
    weights = torch.zeros(shape)
    owner = torch.arange(-ROW_TOKENS, 0).repeat(len(packed), 1)  # padding: each its own
    for r, (_, held) in enumerate(packed):
        at = 0
        for number, (p, a) in enumerate(held):
            size = len(p) + len(a)
            ids[r, at : at + size] = torch.tensor(p + a)
            positions[r, at : at + size] = torch.arange(size)
            labels[r, at + len(p) - 1 : at + size - 1] = torch.tensor(a)
            weights[r, at + len(p) - 1 : at + size - 1] = len(a) ** -0.5
            owner[r, at : at + size] = number
            at += size
    same = owner[:, None, :, None] == owner[:, None, None, :]
    return ids, positions, same & torch.ones(ROW_TOKENS, ROW_TOKENS, dtype=torch.bool).tril(), labels, weights


def answer_loss(model, tokenizer, rows):
    ids, positions, mask, labels, weights = make_batch(tokenizer, rows)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).last_hidden_state
    wanted = labels != -100
    losses = torch.nn.functional.cross_entropy(base.lm_head(hidden[wanted]), labels[wanted], reduction="none")
    return (losses * weights[wanted]).sum() / weights.sum()


def train(model, tokenizer, task_list, adapter, steps, batch_rows, peak_lr, weight_decay, seed, report=None):
    """Trains the parameters that require a gradient; returns the seconds it took."""
    rng = random.Random(seed)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=peak_lr, betas=(0.9, 0.98), weight_decay=weight_decay)
    warmup = min(200, steps // 10)
    begin = time.monotonic()
    model.train()
    for step in range(steps):
        scale = min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * scale
        rows = [tasks.sample(rng, task_list, held_out=False, adapter=adapter)[2:] for _ in range(batch_rows)]
        loss = answer_loss(model, tokenizer, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 99:
            print(f"step {step + 1}/{steps} loss {loss.item():.4f} {time.monotonic() - begin:.0f} s", flush=True)
            if report and step % 500 == 499:
                report(model)
    model.eval()
    return time.monotonic() - begin
