"""Greedy answers and exact-match accuracy, by transformers."""

import contextlib
import pathlib
import random

import peft
import tasks
import torch
import transformers

HERE = pathlib.Path(__file__).parent


def load(dtype, base=HERE / "demo-base", adapters=HERE / "adapters"):
    """The tokenizer and the base with every demo adapter attached, all in `dtype`; see `chosen`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    for name in tasks.ADAPTERS:
        if isinstance(model, peft.PeftModel):
            model.load_adapter(adapters / name, name, autocast_adapter_dtype=False)
        else:
            model = peft.PeftModel.from_pretrained(model, adapters / name, name, autocast_adapter_dtype=False)
    return tokenizer, model.to(dtype).eval()


def chosen(model, adapter):
    """A context in which the model answers with one adapter, or as the base alone (None)."""
    if adapter is None:
        return model.disable_adapter()
    model.set_adapter(adapter)
    return contextlib.nullcontext()


@torch.inference_mode()
def answers(model, tokenizer, prompts, max_new_tokens=64, batch_rows=256):
    """Greedy answers, with the EOS cut off. Prompts of one length share a batch, so nothing is padded."""
    ids = tokenizer(prompts).input_ids
    result = [None] * len(prompts)
    by_length = {}
    for i, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(i)
    for indices in by_length.values():
        for start in range(0, len(indices), batch_rows):
            part = indices[start : start + batch_rows]
            batch = torch.tensor([ids[i] for i in part])
            out = model.generate(
                input_ids=batch, attention_mask=torch.ones_like(batch), do_sample=False,
                max_new_tokens=max_new_tokens, pad_token_id=tokenizer.eos_token_id)
            for i, row in zip(part, out[:, batch.shape[1] :].tolist()):
                result[i] = row[: row.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in row else row
    return result


def accuracies(model, tokenizer, task_list, adapter, count, seed=7):
    """{task: part of `count` held-out prompts whose whole answer is right and ends by itself}"""
    rng = random.Random(seed)
    rows = [tasks.sample(rng, [t], held_out=True, adapter=adapter) for t in task_list for _ in range(count)]
    got = answers(model, tokenizer, [r[2] for r in rows])
    want = tokenizer([r[3] for r in rows], add_special_tokens=False).input_ids
    right = {t: 0 for t in task_list}
    for row, g, w in zip(rows, got, want):
        right[row[0]] += g == w
    return {t: n / count for t, n in right.items()}


@torch.inference_mode()
def smallest_margin(model, prompt_ids, answer_ids):
    """The smallest lead, in logprob, of the greedy token over the second best, over the answer (EOS included)."""
    logits = model(torch.tensor([prompt_ids + answer_ids])).logits[0, len(prompt_ids) - 1 :].float()
    best = logits.topk(2).values
    return (best[:, 0] - best[:, 1]).min().item()
