#!/usr/bin/env python
"""Asks transformers and peft about what lorad wrote.

  ninja -C build/release lorad adapterctl rewrite_adapter
  "$(scripts/golden-env)" tests/golden/check_exports.py build/release             # all bases
  "$(scripts/golden-env)" tests/golden/check_exports.py build/release llama3 opt  # some

For each adapter of a base: merged by the daemon, transformers loads the checkpoint and answers as peft's unmerged adapter
did (cases.json); converted by adapterctl and written anew by its kind's writer, peft loads the folder and answers the same.
The classifiers answer the same logits, converted and written. MoE-PEFT's plain LoRA, converted, answers in peft what it
answered in MoE-PEFT. A line for each that differs, or that was refused and should not have been; exit code 1 then.
Bases that are not stored in fp32 are merged with rounding; there the tokens alone are compared, and a token may differ
where the two best are closer than rounding moves them. check_moe_exports.py asks MoE-PEFT.
"""

import pathlib
import subprocess
import sys
import tempfile

from peft import PeftModel

import classifiers
import oracle
from files import read_json

HERE = pathlib.Path(__file__).parent
TOLERANCE = 5e-4
ROUNDED = 0.25  # README.md, Tolerances.
# Why some cannot be merged.
NOT_MERGED = ("LoRA on parameters of experts", "the base has none there; it cannot be merged", "is no change of weights alone")


def differs(model, cases: list, exact: bool) -> str:
    for case in cases:
        answer = oracle.answer(model, case["prompt"], case["max_tokens"])
        if exact:
            same = answer.tokens == case["tokens"]
        else:  # Along the case's own tokens, as one that differs changes all that follow.
            answer = oracle.answer(model, case["prompt"], case["max_tokens"], forced=case["tokens"])
            same = True
        distance = max(abs(a - b) for a, b in zip(answer.logprobs, case["logprobs"]))
        if not same or distance > (TOLERANCE if exact else ROUNDED):
            return f"{case['name']}: tokens {'equal' if same else 'differ'}, logprobs {distance:.6f} apart"
    return ""


class Tools:
    """A daemon on the base, and the programs that need none."""

    def __init__(self, build: pathlib.Path, model: pathlib.Path):
        self.build, self.model = build, model
        command = [build / "bin/lorad", f"--model={model}", "--listen=127.0.0.1:0", "--metrics=127.0.0.1:0", "--memory-bytes=64MiB"]
        self.daemon = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.server = self.daemon.stdout.readline().split("listen=")[1].split()[0]

    def run(self, *command) -> str:
        """What it complained of; "" when it went well."""
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        return (done.stderr or "failed").splitlines()[0] if done.returncode else ""

    def ctl(self, *arguments) -> str:
        return self.run(self.build / "bin/adapterctl", f"--server={self.server}", *arguments)

    def merge(self, adapter: pathlib.Path, output: pathlib.Path) -> str:
        return self.ctl("load", adapter.name, adapter) or self.ctl("merge", adapter.name, f"--output={output}")

    def convert(self, adapter: pathlib.Path, output: pathlib.Path) -> str:
        return self.ctl("convert", adapter, f"--output={output}")

    def write(self, adapter: pathlib.Path, output: pathlib.Path) -> str:
        return self.run(self.build / "bin/rewrite_adapter", self.model, adapter, output)

    def stop(self) -> None:
        self.daemon.terminate()
        self.daemon.wait()


def check_adapter(tools: Tools, adapter: pathlib.Path, cases: list, stored_fp32: bool, work: pathlib.Path) -> list:
    problems = []
    for what, make in (("merged", tools.merge), ("converted", tools.convert), ("written", tools.write)):
        refused = make(adapter, work / what)
        if refused:
            expected = what == "merged" and any(reason in refused for reason in NOT_MERGED)
            if not expected:
                problems.append(f"not {what}: {refused}")
            continue
        if what == "merged":
            problem = differs(oracle.load(work / what), cases, stored_fp32)
        else:
            problem = differs(oracle.load(tools.model, work / what), cases, True)
        if problem:
            problems.append(f"{what}: {problem}")
    return problems


def check_classifier(tools: Tools, adapter: pathlib.Path, cases: list, work: pathlib.Path) -> list:
    problems = []
    for what, make in (("converted", tools.convert), ("written", tools.write)):
        refused = make(adapter, work / what)
        if refused:
            problems.append(f"not {what}: {refused}")
            continue
        if (work / what / "adapter_model.bin").exists():
            continue  # MoE-PEFT's: check_moe_exports.py.
        model = PeftModel.from_pretrained(classifiers.load_base(tools.model, len(cases[0]["logits"])), work / what).eval()
        model.config.pad_token_id = None
        for case in cases:
            distance = max(abs(a - b) for a, b in zip(classifiers.logits_of(model, case["prompt"]), case["logits"]))
            if distance > TOLERANCE:
                problems.append(f"{what}: {case['name']}: logits {distance:.6f} apart")
    return problems


def check_moe_peft_lora(tools: Tools, adapter: pathlib.Path, cases: list, work: pathlib.Path) -> list:
    refused = tools.convert(adapter, work / "converted")
    problem = refused or differs(oracle.load(tools.model, work / "converted"), cases, True)
    return [f"converted: {problem}"] if problem else []


def of_adapter(cases_file: pathlib.Path, name: str) -> list:
    return [case for case in read_json(cases_file) if case["adapter"] == name and not case.get("expect")]


def check_base(build: pathlib.Path, base: str) -> list:
    folder, problems, checked = HERE / base, [], 0
    stored_fp32 = read_json(folder / "model/config.json").get("dtype", "float32") == "float32"
    tools = Tools(build, folder / "model")
    kinds = [
        (folder / "adapters", folder / "cases.json", lambda *a: check_adapter(*a[:3], stored_fp32, a[3])),
        (folder / "classifiers", folder / "classifiers.json", check_classifier),
        (HERE / "moe_peft" / base / "adapters", HERE / "moe_peft" / base / "cases.json", check_moe_peft_lora),
    ]
    try:
        for adapters, cases_file, check in kinds:
            for adapter in sorted(adapters.iterdir()) if adapters.is_dir() else []:
                if read_json(adapter / "adapter_config.json").get("peft_type", "LORA") != "LORA":
                    continue  # MoE-PEFT's routed ones: peft has none such.
                with tempfile.TemporaryDirectory() as work:
                    found = check(tools, adapter, of_adapter(cases_file, adapter.name), pathlib.Path(work))
                checked += 1
                problems += [f"{adapter.relative_to(HERE)}: {problem}" for problem in found]
    finally:
        tools.stop()
    print(f"{base}: {checked} adapters checked, {len(problems)} problems", flush=True)
    for problem in problems:
        print(f"  {problem}", flush=True)
    return problems


def main() -> int:
    build = pathlib.Path(sys.argv[1])
    oracle.one_quiet_thread()
    bases = sys.argv[2:] or sorted(path.parent.name for path in HERE.glob("*/adapters") if path.parent.name != "moe_peft")
    return 1 if [problem for base in bases for problem in check_base(build, base)] else 0


if __name__ == "__main__":
    sys.exit(main())
