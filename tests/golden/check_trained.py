#!/usr/bin/env python
"""Asks peft 0.21 about what lorad trained and wrote.

  TEST_TMPDIR=/tmp build/release/tests/train_trace_test
  "$(scripts/golden-env)" tests/golden/check_trained.py /tmp

Each trace of train_traces.py is trained by peft once more. The adapter that lorad wrote behind its own twenty steps
(trace-NAME), read by peft, must have the loss that peft's model has then. A line for each that differs, and exit code 1.
"""

import pathlib
import sys
import tempfile

import torch
import torch.nn.functional as F
from peft import PeftModel

import train_traces

TOLERANCE = 1e-4  # relative
JUDGED = 4  # examples


def loss_of(model, examples: list) -> float:
    """The mean over all tokens."""
    model.eval()
    total, count = 0.0, 0
    for example in examples[:JUDGED]:
        ids = torch.tensor([example["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
        total += F.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return total / count


def main() -> None:
    torch.set_num_threads(1)
    wrong = 0
    for name, changes in train_traces.TRACES.items():
        spec = train_traces.DEFAULTS | changes
        with tempfile.TemporaryDirectory() as scratch:
            model, examples = train_traces.write_trace(name, spec, pathlib.Path(scratch) / name)
        wanted = loss_of(model, examples)
        written = PeftModel.from_pretrained(train_traces.load_base(spec), pathlib.Path(sys.argv[1]) / f"trace-{name}")
        loss = loss_of(written, examples)
        if not abs(loss - wanted) <= TOLERANCE * wanted:
            print(f"{name}: loss: {loss}; limit: {wanted}, within {TOLERANCE}")
            wrong += 1
    print(f"traces: {len(train_traces.TRACES)}; wrong: {wrong}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
