#!/usr/bin/env python
"""Asks MoE-PEFT 2.0.2 about what lorad trained. Run by scripts/golden-moe-env's python.

  ninja -C build/release moe_trace_test
  "$(scripts/golden-moe-env)" tests/golden/check_moe_training.py build/release

lorad trains each trace of moe_training/ and writes the adapter; MoE-PEFT trains it too. MoE-PEFT must take lorad's config,
find each tensor there with its own weights after twenty steps, and answer alike with both. A line for each trace, and exit
code 1 if one differs.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from moe_peft.adapters import lora_config_factory

import oracle
from files import read_json
from generate_moe import Oracle, load_adapter
from moe_examples import draw_examples
from moe_train_traces import forward, train

HERE = pathlib.Path(__file__).parent
TOLERANCE = 1e-4  # Of a weight, against the largest of its tensor.
LOSS_TOLERANCE = 1e-4


def check(name: str, trained: pathlib.Path) -> str:
    folder = HERE / "moe_training" / name
    spec = read_json(folder / "trace.json")["spec"]
    lora_config_factory(read_json(trained / "adapter_config.json"))  # Checks the config.
    theirs = Oracle(spec["base"])
    theirs.init(spec["adapter"], torch.load(folder / "adapter/adapter_model.bin", weights_only=False))
    examples = draw_examples(theirs.config.vocab_size)
    train(theirs, spec, examples)
    ours = load_adapter(spec["base"], trained)
    pairs = [(key, theirs.weights()[key], tensor) for key, tensor in ours.weights().items()]
    if theirs.weights().keys() != torch.load(trained / "adapter_model.bin", weights_only=False).keys():
        return "other tensors"
    distance, key = max((float((a - b).abs().max() / a.abs().max()), key) for key, a, b in pairs)
    if not distance < TOLERANCE:
        return f"{key}: {distance:.6f} apart"
    for trained_by in (theirs, ours):
        trained_by.loss = forward(trained_by, examples[:1]).loss.item()
    return "" if abs(ours.loss - theirs.loss) < LOSS_TOLERANCE * theirs.loss else f"loss {ours.loss}, not {theirs.loss}"


def main() -> int:
    build, failed = pathlib.Path(sys.argv[1]), False
    oracle.one_quiet_thread()
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([build / "tests/moe_trace_test"], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"TEST_TMPDIR": work})
        for folder in sorted(file.parents[1] for file in (HERE / "moe_training").glob("*/adapter/adapter_model.bin")):
            problem = check(folder.name, pathlib.Path(work) / f"moe_trained_{folder.name}")
            print(f"{folder.name}: {problem or 'the same weights and loss'}", flush=True)
            failed |= bool(problem)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
