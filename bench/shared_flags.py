"""Flags that several benchmarks have."""

import argparse
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("LORAD_CACHE", pathlib.Path.home() / ".cache/lorad"))

SHARED = {
    "--build-dir": {"type": pathlib.Path, "default": ROOT / "build/release"},
    "--model": {"default": str(CACHE / "bench/135m")},
    "--data": {"type": pathlib.Path, "default": CACHE / "bench", "help": "where models and adapters are made"},
    "--out": {"type": pathlib.Path, "default": ROOT / "bench/out"},
    "--run-under": {"default": "",
                    "help": "on a shared machine: a command that waits until it is quiet, then runs another"},
}


def parser(description, *shared):
    """A parser with these of the flags above; a benchmark adds its own."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in shared:
        made.add_argument(flag, **SHARED[flag])
    return made
