#!/usr/bin/env python
"""Asks transformers and peft about what lorad wrote: check_exports.py BUILD_DIR [BASE ...]

For each adapter of the bases (llama3, llama_linear and qwen3 unless named): merged by the daemon, transformers loads the
checkpoint and answers as peft's unmerged adapter did (cases.json); converted by adapterctl and written anew by the
adapter writer, peft loads the folder and answers the same. A line for each that differs, and exit code 1. Bases whose
checkpoint is not fp32 are merged with rounding; there the tokens alone are compared.
"""

import pathlib
import subprocess
import sys
import tempfile

import oracle
from files import read_json

HERE = pathlib.Path(__file__).parent
TOLERANCE = 5e-4


def differs(model, cases: list, exact: bool) -> str:
    for case in cases:
        answer = oracle.answer(model, case["prompt"], case["max_tokens"])
        distance = max(abs(a - b) for a, b in zip(answer.logprobs, case["logprobs"]))
        if answer.tokens != case["tokens"] or (exact and distance > TOLERANCE):
            return f"{case['name']}: tokens {'equal' if answer.tokens == case['tokens'] else 'differ'}, logprobs {distance:.6f} apart"
    return ""


class Daemon:
    def __init__(self, build: pathlib.Path, model: pathlib.Path):
        command = [build / "bin/lorad", f"--model={model}", "--listen=127.0.0.1:0", "--metrics=127.0.0.1:0", "--memory-bytes=64MiB"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.server = self.process.stdout.readline().split("listen=")[1].split()[0]
        self.adapterctl = build / "bin/adapterctl"

    def ctl(self, *arguments) -> subprocess.CompletedProcess:
        return subprocess.run([self.adapterctl, f"--server={self.server}", *map(str, arguments)], capture_output=True, text=True)


def check_base(build: pathlib.Path, base: str) -> list:
    folder, problems, checked = HERE / base, [], 0
    exact = read_json(folder / "model/config.json").get("dtype", "float32") == "float32"
    cases = read_json(folder / "cases.json")
    daemon = Daemon(build, folder / "model")
    try:
        for adapter in sorted(path for path in (folder / "adapters").iterdir()):
            own = [case for case in cases if case["adapter"] == adapter.name and not case.get("expect")]
            with tempfile.TemporaryDirectory() as work:
                work = pathlib.Path(work)
                loaded = daemon.ctl("load", adapter.name, adapter)
                done = {
                    "merged": daemon.ctl("merge", adapter.name, f"--output={work / 'merged'}"),
                    "converted": daemon.ctl("convert", adapter, f"--output={work / 'converted'}"),
                    "written": subprocess.run([build / "bin/rewrite_adapter", folder / "model", adapter, work / "written"], capture_output=True, text=True),
                }
                for what, result in done.items():
                    if loaded.returncode or result.returncode:
                        print(f"  {base}/{adapter.name}: not {what}: {(loaded.stderr or result.stderr).splitlines()[0]}")
                        continue
                    model = oracle.load(work / "merged") if what == "merged" else oracle.load(folder / "model", work / what)
                    problem = differs(model, own, exact or what != "merged")
                    checked += 1
                    if problem:
                        problems.append(f"{base}/{adapter.name} {what}: {problem}")
    finally:
        daemon.process.terminate()
        daemon.process.wait()
    print(f"{base}: {checked} folders checked")
    return problems


def main() -> int:
    build = pathlib.Path(sys.argv[1])
    problems = [p for base in sys.argv[2:] or ["llama3", "llama_linear", "qwen3"] for p in check_base(build, base)]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
