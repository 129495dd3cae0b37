"""Writes expected.json and prompts.txt: greedy answers that fp32 and bf16 agree on, with room for rounding."""

import json
import random

import training  # noqa: F401  first: it sets what OpenMP reads at start
import generation
import tasks
import torch

MIN_MARGIN = 2.0  # logprob by which every greedy token leads, in both dtypes
PROMPTS = 8


def candidates(rng):
    """Endless held-out prompts with answers of several words, the tasks in turn."""
    turn = ["reverse", "sort", "copy", "odd", "repeat", "double"]
    while True:
        for task in turn:
            while True:
                _, words, prompt, _ = tasks.sample(rng, [task], held_out=True)
                if 4 <= len(words) <= 7:
                    break
            yield task, words, prompt


def checked(loaded, task, words, prompt, adapter):
    """The expected.json entry of one prompt, or None where a dtype errs or a token leads by too little."""
    text = tasks.answer_of(task, words, adapter)
    margins = []
    for tokenizer, model in loaded:
        prompt_ids = tokenizer(prompt).input_ids
        with generation.chosen(model, adapter):
            ids = generation.answers(model, tokenizer, [prompt])[0]
            if tokenizer.decode(ids) != text:
                return None
            margins.append(generation.smallest_margin(model, prompt_ids, ids + [tokenizer.eos_token_id]))
        if margins[-1] < MIN_MARGIN:
            return None
    return {"adapter": adapter or "", "prompt": prompt, "prompt_ids": prompt_ids, "text": text, "ids": ids,
            "smallest_margin": round(min(margins), 2)}


def checked_for_all(loaded, task, words, prompt):
    entries = []
    for adapter in [None, *tasks.ADAPTERS]:
        entry = checked(loaded, task, words, prompt, adapter)
        if entry is None:
            return None
        entries.append(entry)
    return entries


def main():
    torch.set_num_threads(2)
    loaded = [generation.load(dtype) for dtype in (torch.float32, torch.bfloat16)]
    groups, entries = [], []
    for task, words, prompt in candidates(random.Random(11)):
        found = checked_for_all(loaded, task, words, prompt)
        if found:
            groups.append(found)
            if len(groups) == PROMPTS:
                break
    groups.sort(key=lambda group: -min(e["smallest_margin"] for e in group))  # the demo shows the first two
    rng = random.Random(12)
    for task in ["count", "first", "last", *tasks.STYLES]:
        while True:
            _, words, prompt, _ = tasks.sample(rng, [task], held_out=True)
            entry = checked(loaded, task, words, prompt, None) if len(words) > 4 else None
            if entry:
                entries.append(entry)
                break
    lines = ",\n".join(json.dumps(e) for e in sum(groups, []) + entries)
    (generation.HERE / "expected.json").write_text(f"[\n{lines}\n]\n")
    (generation.HERE / "prompts.txt").write_text("".join(group[0]["prompt"] + "\n" for group in groups))


if __name__ == "__main__":
    main()
