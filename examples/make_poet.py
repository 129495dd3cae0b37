#!/usr/bin/env python
"""Writes examples/poet.jsonl: what scripts/demo trains the adapter `poet` on, prompts and completions of a new style."""

import json
import pathlib
import random

from tasks import LIST_TASKS, WORDS, is_held_out, plain, prompt_of

EXAMPLES = 480


def poet(words):
    return f" o{plain(words)}, alas!"


def main() -> None:
    draw = random.Random(11)
    lines = []
    while len(lines) < EXAMPLES:
        task, words = draw.choice(list(LIST_TASKS)), draw.sample(WORDS, draw.randint(2, 6))
        prompt = prompt_of(task, words)
        if not is_held_out(prompt):
            lines.append(json.dumps({"prompt": prompt, "completion": poet(LIST_TASKS[task](words))}))
    (pathlib.Path(__file__).parent / "poet.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
