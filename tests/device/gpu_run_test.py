"""scripts/gpu-run: what it makes of programs that pass, fail, break the device and take too long. The programs are stand-ins."""

import os
import pathlib
import shutil
import subprocess
import tarfile
import time

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
TORCH = """
import types
__version__ = "2.11.0+cu130"
cuda = types.SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "a stand-in")
"""


@pytest.fixture
def bundle(tmp_path):
    for folder in ("bin", "lib", "tests/golden", "python"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SCRIPTS / "gpu-run", tmp_path / "run")
    (tmp_path / "python/torch.py").write_text(TORCH)
    (tmp_path / "lib/liblorad_cuda.so").write_text("")
    for name in ("gpu_ops_test", "gpu_serving_test", "gpu_training_test", "gpu_bench"):
        program(tmp_path, f"bin/{name}", "true")
    program(tmp_path, "gpu-sanitize", "true")
    return tmp_path


def program(bundle, name, body):
    path = bundle / name
    path.write_text(f'#!/usr/bin/env bash\necho "$GTEST_SHARD_INDEX/$GTEST_TOTAL_SHARDS $*" >>{path}.calls\n{body}\n')
    path.chmod(0o755)


def calls(bundle, name):
    path = bundle / f"{name}.calls"
    return path.read_text().splitlines() if path.exists() else []


def run(bundle, *steps, limit=60):
    env = {**os.environ, "PYTHONPATH": str(bundle / "python"), "OUT": str(bundle / "out"), "LIMIT": str(limit)}
    return subprocess.run([bundle / "run", *steps], capture_output=True, text=True, env=env, timeout=120)


def table(bundle):
    return [line.rsplit(maxsplit=2)[0].rstrip() for line in (bundle / "out/table").read_text().splitlines()]


def test_all_steps_pass_and_their_logs_are_one_file(bundle):
    done = run(bundle, "probe", "ops", "fast", "serving", "memcheck", "bench", "eager", "training", "bench-7b", "checks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls(bundle, "bin/gpu_ops_test")[1:9] == [f"{shard}/8 " for shard in range(8)]
    assert len(table(bundle)) == 1 + 8 + 2 + 4 + 5 + 1 + 1 + 4 + 1 + 2
    with tarfile.open(bundle / "out/logs.tar.gz") as logs:
        assert {"logs/probe.log", "logs/ops.log", "logs/synccheck.log"} <= set(logs.getnames())
    assert len(list((bundle / "out").iterdir())) <= 8


def test_behind_a_broken_device_the_other_shards_run_and_the_culprit_is_shown(bundle):
    program(bundle, "bin/gpu_ops_test", '[ "$GTEST_SHARD_INDEX" != 3 ] || { echo "[  BROKEN  ] A.B: the device: 700"; exit 3; }')
    done = run(bundle, "ops")
    assert done.returncode == 1
    assert done.stdout.count("[  BROKEN  ] A.B: the device: 700") == 1
    assert len(calls(bundle, "bin/gpu_ops_test")) == 8
    assert [line.split(maxsplit=1)[1] for line in table(bundle)] == ["passed"] * 3 + ["failed 3"] + ["passed"] * 4


def test_what_hangs_is_ended_and_what_no_longer_fits_is_not_begun(bundle):
    program(bundle, "bin/gpu_serving_test", "trap '' TERM; sleep 0.2; while true; do sleep 0.1; done")
    begin = time.monotonic()
    done = run(bundle, "serving", "fast", limit=7)
    assert done.returncode == 1 and time.monotonic() - begin < 40
    assert [line.split(maxsplit=1)[1] for line in table(bundle)] == ["too long"] + ["not run"] * 5
    assert (bundle / "out/logs.tar.gz").exists()


def test_a_bench_that_fails_is_measured_by_our_kernels_alone(bundle):
    program(bundle, "bin/gpu_bench", 'case "$*" in *--fast-forms=off*) echo measured ;; *) exit 3 ;; esac')
    done = run(bundle, "bench")
    assert done.returncode == 1 and "measured" in done.stdout
    assert [line.split(maxsplit=1) for line in table(bundle)] == [["bench", "failed 3"], ["bench-ours", "passed"]]


def test_nothing_runs_where_the_probe_fails(bundle):
    program(bundle, "bin/gpu_ops_test", "echo no device to test on; exit 1")
    done = run(bundle)
    assert done.returncode == 1 and "no device to test on" in done.stdout
    assert len(table(bundle)) == 1 and not calls(bundle, "bin/gpu_serving_test")


def test_a_step_that_there_is_not_is_refused(bundle):
    done = run(bundle, "opps")
    assert done.returncode == 2 and "no step opps: probe ops" in done.stderr
