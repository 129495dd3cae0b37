#!/usr/bin/env python
"""Random bases and adapters, asked of lorad and of peft. See README.md.

  sweep.py --seed 1 --count 100              a hundred bases with eight adapters each
  sweep.py --seed 17 --count 1 --base opt    one of them again
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

if os.environ.get("PYTHONHASHSEED") != "0":  # peft writes target_modules from a set.
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"})

import oracle
import sweep_bases
from files import read_json, write_json
from sweep_seed import Sweep, Tally

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Asker:
    """sweep_ask.py as a child, one for all seeds."""

    def __init__(self, build_dir: pathlib.Path):
        self.process = subprocess.Popen(
            [ROOT / ".venv/bin/python", pathlib.Path(__file__).with_name("sweep_ask.py"), build_dir.resolve()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, folder: pathlib.Path, plan: dict) -> dict:
        write_json(folder / "plan.json", plan)
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != "answered\n":
            raise SystemExit("sweep_ask.py has ended")
        return read_json(folder / "answers.json")


def run_seed(seed: int, args, asker: Asker, tally: Tally) -> bool:
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"sweep-{seed}-", dir=args.out))
    sweep = Sweep(seed, args.base, folder, tally)
    sweep.write()
    if sweep.adapters:
        plan = sweep.plan()
        sweep.check(plan, asker.ask(folder, plan))
    tally.counts["bases"] += 1
    tally.counts["adapters"] += sum(each.trained is not None for each in sweep.adapters.values())
    tally.counts["damaged"] += sum(each.trained is None for each in sweep.adapters.values())
    if sweep.findings:
        print(f"seed {seed}{' of --base ' + args.base if args.base else ''}: {sweep.base.name}; kept: {folder}\n  config: {sweep.base.config.to_diff_dict()}")
        for finding in sweep.findings:
            print(f"  {finding}", flush=True)
        return False
    if not args.keep:
        shutil.rmtree(folder)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--base", choices=list(sweep_bases.CHANGES))
    parser.add_argument("--build-dir", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--out", default=None, help="where folders are made; those of findings stay")
    parser.add_argument("--keep", action="store_true", help="the others, too")
    args = parser.parse_args()
    oracle.one_quiet_thread()
    asker, tally, wrong = Asker(args.build_dir), Tally(), 0
    for seed in range(args.seed, args.seed + args.count):
        wrong += not run_seed(seed, args, asker, tally)
    for what, folder in tally.examples.items():
        print(f"refused: {what}: {folder}")
    for title, counter in (("refused by lorad", tally.refusals), ("skipped", tally.skipped)):
        print(f"{title}:")
        for what, count in counter.most_common():
            print(f"  {count} {what}")
    print(f"{dict(tally.counts)}; worst difference of those within the tolerance: {tally.worst:.6f}; seeds with findings: {wrong}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
