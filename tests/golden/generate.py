#!/usr/bin/env python
"""Writes the golden folders. See README.md.

  generate.py                    everything
  generate.py --base llama3      one base (repeatable), its adapters and its cases
  generate.py --compositions     several adapters at once, of the bases as they are
  generate.py --classifiers      adapters with a classifier head, of the bases as they are
  generate.py --refused          the folders that must be refused
"""

import argparse
import os
import pathlib
import shutil
import sys

if os.environ.get("PYTHONHASHSEED") != "0":  # peft writes target_modules from a set.
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"})

import torch

import bases
import classifiers
import compositions
import oracle
import refused_adapters
import refused_models
import variants
from files import write_cases
from search import find_case, require_shift

HERE = pathlib.Path(__file__).parent
BASE_LENGTHS = [(1, 12), (2, 12), (7, 16), (17, 16), (40, 20), (150, 12)]  # Prompt tokens, tokens asked for.
ADAPTER_LENGTHS = [(7, 12), (40, 12), (2, 12), (17, 12), (1, 12)]


def base_cases(base: bases.Base, folder: pathlib.Path) -> list:
    model = oracle.load(folder / "model")
    cases = [find_case(model, f"base-{n}", "", n, m, seed=n)[0] for n, m in BASE_LENGTHS]
    for what, fields in base.must_matter.items():
        require_shift(f"{base.name}: {what}", oracle.load(folder / "model", config=bases.changed_config(folder, fields)), cases)
    return cases


def adapter_cases(base: bases.Base, variant: variants.Variant, index: int, folder: pathlib.Path) -> list:
    adapter = folder / "adapters" / variant.name
    variants.write_adapter(base.name, variant, folder / "model", adapter)
    model = oracle.load(folder / "model", adapter)
    cases = []
    for length, max_tokens in (ADAPTER_LENGTHS[index % 5], ADAPTER_LENGTHS[(index + 1) % 5]):
        case, _ = find_case(model, f"{variant.name}-{length}", variant.name, length, max_tokens, seed=1000 + index * 50 + length,
                            edit=variant.edit_prompt, must_say=model.config.vocab_size - variant.own_tokens if variant.own_tokens else 0)
        cases.append(case | ({"expect": variant.expect} if variant.expect else {}))
    require_shift(f"{base.name}/{variant.name}", oracle.load(folder / "model", vocabulary=model.config.vocab_size), cases)
    variants.rename_tensors(variant, adapter)
    variants.pickle_tensors(variant, adapter)
    return cases


def composition_cases(composition: compositions.Composition, index: int, folder: pathlib.Path) -> list:
    model = compositions.load(folder, composition)
    length, max_tokens = ADAPTER_LENGTHS[index % 5]
    case, _ = find_case(model, f"{composition.name}-{length}", "", length, max_tokens, seed=9000 + index)
    for i, (member, _) in enumerate(composition.members):
        others = composition.without(i)
        without = compositions.load(folder, others) if others.members else oracle.load(folder / "model")
        require_shift(f"{composition.name}: {member}", without, [case])
    return [case | {"adapters": composition.adapters()}]


def write_compositions(name: str, folder: pathlib.Path) -> None:
    cases = []
    for index, composition in enumerate(compositions.BY_BASE.get(name, [])):
        cases += composition_cases(composition, index, folder)
    if cases:
        write_cases(folder / "compositions.json", cases)


def write_classifiers(name: str, folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "classifiers", ignore_errors=True)
    if cases := classifiers.write_base(name, folder):
        write_cases(folder / "classifiers.json", cases)


def bf16_cases(folder: pathlib.Path, cases: list) -> list:
    """transformers' own bfloat16 run of prompt + answer of each case, teacher-forced, beside the fp32 values."""
    out = []
    for case in cases:
        adapter = folder / "adapters" / case["adapter"] if case["adapter"] else None
        text = case["prompt"] + case["tokens"]
        logprobs = [oracle.answer(oracle.load(folder / "model", adapter, dtype), text, 0).prompt_logprobs
                    for dtype in (torch.bfloat16, torch.float32)]
        out.append({"name": case["name"], "adapter": case["adapter"], "prompt": text,
                    "prompt_logprobs": logprobs[0], "prompt_logprobs_fp32": logprobs[1]})
    worst = max(abs(a - b) for c in out for a, b in zip(c["prompt_logprobs"], c["prompt_logprobs_fp32"]))
    print(f"  bf16 against fp32: at most {worst:.3f}")
    return out


def write_base(base: bases.Base) -> None:
    print(base.name)
    folder = HERE / base.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    bases.write_base(base, folder)
    cases = base_cases(base, folder)
    for index, variant in enumerate(variants.BY_BASE[base.name]):
        cases += adapter_cases(base, variant, index, folder)
    write_cases(folder / "cases.json", cases)
    if base.stored == torch.bfloat16:
        chosen = [c for c in cases if c["adapter"] in ("", "q_v", "all_linear")]
        write_cases(folder / "cases_bf16.json", bf16_cases(folder, chosen))
    write_compositions(base.name, folder)
    write_classifiers(base.name, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", action="append", default=[], choices=[b.name for b in bases.BASES])
    parser.add_argument("--compositions", action="store_true")
    parser.add_argument("--classifiers", action="store_true")
    parser.add_argument("--refused", action="store_true")
    args = parser.parse_args()
    everything = not args.base and not args.refused and not args.compositions and not args.classifiers
    oracle.one_quiet_thread()
    for base in bases.BASES:
        if everything or base.name in args.base:
            write_base(base)
    if args.compositions:
        for name in compositions.BY_BASE:
            print(name)
            write_compositions(name, HERE / name)
    if args.classifiers:
        for name in classifiers.BY_BASE:
            print(name)
            write_classifiers(name, HERE / name)
    if everything or args.refused:
        refused_adapters.write_all(HERE)
        refused_models.write_all(HERE)


if __name__ == "__main__":
    main()
