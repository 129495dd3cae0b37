#!/usr/bin/env python
"""Asks MoE-PEFT 2.0.2 about what lorad wrote in its format.

  ninja -C build/release rewrite_adapter
  "$(scripts/golden-moe-env)" tests/golden/check_moe_exports.py build/release             # all bases
  "$(scripts/golden-moe-env)" tests/golden/check_moe_exports.py build/release phi mistral  # some

Each adapter of moe_peft/<base>, and each classifier of MoE-PEFT's, is written anew by its kind's writer. MoE-PEFT must
take the config, and answer as it did with its own folder (cases.json); of a classifier it must find the same tensors. A
line for each that differs, and exit code 1.
"""

import pathlib
import subprocess
import sys
import tempfile

import torch
from moe_peft.adapters import lora_config_factory

import oracle
from files import read_json
from generate_moe import load_adapter

HERE = pathlib.Path(__file__).parent
TOLERANCE = 5e-4


def write(build: pathlib.Path, base: str, adapter: pathlib.Path, output: pathlib.Path) -> None:
    subprocess.run([build / "bin/rewrite_adapter", HERE / base / "model", adapter, output], check=True)
    lora_config_factory(read_json(output / "adapter_config.json"))  # Checks the config.


def check_routed(base: str, adapter: pathlib.Path, written: pathlib.Path) -> str:
    model = load_adapter(base, written)
    for case in read_json(HERE / "moe_peft" / base / "cases.json"):
        if case["adapter"] != adapter.name:
            continue
        answer = oracle.answer(model, case["prompt"], case["max_tokens"])
        distance = max(abs(a - b) for a, b in zip(answer.logprobs, case["logprobs"]))
        if answer.tokens != case["tokens"] or distance > TOLERANCE:
            return f"{case['name']}: logprobs {distance:.6f} apart"
    return ""


def check_classifier(adapter: pathlib.Path, written: pathlib.Path) -> str:
    before, after = (torch.load(folder / "adapter_model.bin", weights_only=False) for folder in (adapter, written))
    same = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    return "" if same else "other tensors"


def main() -> int:
    build, failed = pathlib.Path(sys.argv[1]), False
    oracle.one_quiet_thread()
    routed = [(path.parts[-3], path) for path in sorted(HERE.glob("moe_peft/*/adapters/*"))]
    plain = [(path.parts[-3], path) for path in sorted(HERE.glob("*/classifiers/moe_peft"))]
    bases = sys.argv[2:] or {base for base, _ in routed + plain}
    for base, adapter in routed + plain:
        if base not in bases:
            continue
        with tempfile.TemporaryDirectory() as work:
            written = pathlib.Path(work) / "written"
            write(build, base, adapter, written)
            is_classifier = "classifiers" in adapter.parts
            problem = check_classifier(adapter, written) if is_classifier else check_routed(base, adapter, written)
        print(f"{adapter.relative_to(HERE)}: {problem or 'answers as before'}", flush=True)
        failed |= bool(problem)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
