"""Merged checkpoints and converted adapters, as files that are served again."""

import json
import pathlib
import subprocess

import grpc
import pytest
from lorad.v1 import adapters_pb2
from support import WAIT_SECONDS, generate, refusal


def merge(daemon, name, output):
    request = adapters_pb2.MergeAdapterRequest(name=name, output_path=str(output))
    return list(daemon.adapters.MergeAdapter(request, timeout=WAIT_SECONDS))


def case_of(cases, adapter):
    return next(case for case in cases.values() if case["adapter"] == adapter)


def answer(daemon, case, adapter=""):
    return generate(daemon, case["prompt"], adapter=adapter, max_tokens=case["max_tokens"], ignore_eos=True).token_ids[0]


@pytest.mark.parametrize("adapter", ["all_linear", "dora", "embed_and_head"])
def test_a_merged_base_is_served_and_answers_as_the_adapter_did(start_daemon, golden, cases, tmp_path, adapter):
    daemon = start_daemon()
    case = case_of(cases, adapter)
    daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="a", path=str(golden / "llama3/adapters" / adapter)))
    unmerged = answer(daemon, case, "a")
    messages = merge(daemon, "a", tmp_path / "merged")
    assert messages[-1].tensors_done == messages[-1].tensors_total > 0
    assert answer(daemon, case, "a") == unmerged == case["tokens"]  # what is served is not touched
    assert daemon.stop() == 0
    assert (tmp_path / "merged/tokenizer.json").exists()
    merged = start_daemon(model_dir=tmp_path / "merged")
    assert answer(merged, case) == case["tokens"]
    assert merged.stop() == 0


def test_merging_is_refused_by_name(start_daemon, golden, tmp_path):
    (tmp_path / "root").mkdir()
    folder = tmp_path / "root/a"
    subprocess.run(["cp", "-r", golden / "llama3/adapters/q_v", folder], check=True)
    daemon = start_daemon(f"--adapter-root={tmp_path / 'root'}")
    daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="a", path="a"))

    def refused(name, output):
        return refusal(lambda: daemon.adapters.MergeAdapter(adapters_pb2.MergeAdapterRequest(name=name, output_path=str(output))))

    assert refused("nobody", "out").code() == grpc.StatusCode.NOT_FOUND
    assert refused("../a", "out").code() == grpc.StatusCode.INVALID_ARGUMENT
    for wrong in ("", ".", "..", "root/..", "../out", tmp_path / "out"):
        error = refused("a", wrong)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, wrong
    assert refused("a", "none/out").code() == grpc.StatusCode.NOT_FOUND
    assert refused("a", "a").code() == grpc.StatusCode.ALREADY_EXISTS
    merge(daemon, "a", "out")
    assert refused("a", "out").code() == grpc.StatusCode.ALREADY_EXISTS
    # What lies on disk is no longer what is served.
    for file in (golden / "llama3/adapters/rslora").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    error = refused("a", "other")
    assert error.code() == grpc.StatusCode.DATA_LOSS and "changed on disk" in error.details()
    assert sorted(p.name for p in (tmp_path / "root").iterdir()) == ["a", "out"]
    assert daemon.stop() == 0


def test_a_full_disk_is_told_and_leaves_nothing(start_daemon, golden, tmp_path):
    """The daemon may write no file above a few KiB, which the system tells it as it tells of a full disk."""
    daemon = start_daemon()
    daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="a", path=str(golden / "llama3/adapters/q_v")))
    subprocess.run(["prlimit", f"--pid={daemon.process.pid}", "--fsize=8192:unlimited"], check=True)
    error = refusal(lambda: daemon.adapters.MergeAdapter(
        adapters_pb2.MergeAdapterRequest(name="a", output_path=str(tmp_path / "merged"))))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "free some space" in error.details()
    assert list(tmp_path.iterdir()) == []
    subprocess.run(["prlimit", f"--pid={daemon.process.pid}", "--fsize=unlimited:unlimited"], check=True)
    merge(daemon, "a", tmp_path / "merged")
    assert daemon.stop() == 0


def test_adapterctl_merges(start_daemon, golden, tmp_path):
    daemon = start_daemon(f"--adapter=a={golden / 'llama3/adapters/q_v'}")
    done = daemon.ctl("merge", "a", "--output", str(tmp_path / "merged"))
    assert done.returncode == 0, done.stderr
    assert "merged a into" in done.stdout
    told = json.loads(daemon.ctl("--output=json", "merge", "a", f"--output={tmp_path / 'again'}").stdout)
    assert told["merged"] == "a" and told["tensors"] > 0
    again = daemon.ctl("merge", "a", "--output", str(tmp_path / "merged"))
    assert again.returncode == 1 and "ALREADY_EXISTS" in again.stderr
    assert daemon.stop() == 0


def test_adapterctl_converts_without_a_daemon(build_dir, start_daemon, golden, cases, tmp_path):
    source = golden / "llama3/adapters/pickled_parameters"
    command = [build_dir / "bin/adapterctl", "--server=127.0.0.1:1", "convert", source]
    done = subprocess.run([*command, "--output", tmp_path / "converted"], capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in pathlib.Path(tmp_path / "converted").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((tmp_path / "converted/adapter_config.json").read_text())["peft_type"] == "LORA"
    again = subprocess.run([*command, "--output", tmp_path / "converted"], capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert again.returncode == 1 and "ALREADY_EXISTS" in again.stderr
    daemon = start_daemon(f"--adapter=a={tmp_path / 'converted'}")
    case = case_of(cases, "pickled_parameters")
    assert answer(daemon, case, "a") == case["tokens"]
    assert daemon.stop() == 0
