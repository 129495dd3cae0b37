"""What the traces of adapters with routers are trained on."""

import random

EXAMPLES = 24


def draw_examples(vocab: int) -> list:
    """Sequences whose second half follows from the first, so that there is something to learn."""
    draw, examples = random.Random(11), []
    for _ in range(EXAMPLES):
        half = draw.randint(2, 14)
        ids = [draw.randrange(3, vocab) for _ in range(half)]
        examples.append({"input_ids": ids + ids[::-1], "labels": [-100] * half + ids[::-1]})
    return examples
