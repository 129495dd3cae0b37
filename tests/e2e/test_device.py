"""The daemon on a CUDA device: the emulated one, whose library it opens as it would the real one's."""

import json
import pathlib
import re
import shutil
import subprocess

import grpc
import pytest
import test_training
import tuning as tuning_support
from deploy_files import OF_A_DEVICE, dashboard_queries, drive, metrics_of
from lorad.v1 import adapters_pb2, finetuning_pb2, inference_pb2
from support import WAIT_SECONDS, Daemon, generate

TOLERANCE = 5e-4
MOST_PROMPT_TOKENS = 20  # the emulator's time


@pytest.fixture
def with_device(build_dir, tmp_path, monkeypatch):
    """A build folder whose library is the emulated device's, on a machine whose driver has a device."""
    driver = build_dir / "emulated/driver"
    if not driver.exists():
        pytest.skip("the emulated device is not built with sanitizers")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver))
    for folder in ("bin", "lib"):
        (tmp_path / folder).mkdir()
    for program in ("lorad", "adapterctl"):
        shutil.copy(build_dir / "bin" / program, tmp_path / "bin")
    for library in [*(build_dir / "lib").glob("*.so"), build_dir / "emulated/lib/liblorad_cuda.so"]:
        shutil.copy(library, tmp_path / "lib")
    return tmp_path


def device_line(daemon):
    return next(line for line in daemon.log if " device device=" in line)


def assert_warned(daemon):
    """It serves on the CPU of a machine that has a driver, and says what to do."""
    line = device_line(daemon)
    assert " warning device device=cpu " in line and "--device=cuda refuses" in line and "--device=cpu says" in line


@pytest.mark.parametrize("choice", ["cuda", "auto"])
def test_it_serves_on_the_device_as_peft_answers(with_device, model, golden, choice):
    flags = [f"--device={choice}", f"--adapter-dir={golden / 'llama3/adapters'}", "--memory-bytes=8MiB"]
    with Daemon(with_device, model, *flags) as daemon:
        assert any(" warmed_up seconds=" in line for line in daemon.log)
        assert "emulated device" in device_line(daemon) and "liblorad_cuda.so" in device_line(daemon)
        assert daemon.inference.GetModelInfo(inference_pb2.GetModelInfoRequest()).device == "cuda"
        wanted = {"", "all_linear", "dora"}
        for case in json.loads((golden / "llama3/cases.json").read_text()):
            if case["adapter"] not in wanted or len(case["prompt"]) > MOST_PROMPT_TOKENS:
                continue
            wanted.discard(case["adapter"])
            answer = generate(daemon, case["prompt"], adapter=case["adapter"], max_tokens=case["max_tokens"],
                              ignore_eos=True, logprobs=1)
            assert answer.token_ids[0] == case["tokens"], case["name"]
            assert [entry.logprob for entry in answer.logprobs[0]] == pytest.approx(case["logprobs"], abs=TOLERANCE)
        assert not wanted
        daemon.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name="dora"))


def test_fast_forms_are_named_or_left_out(with_device, model):
    all_forms = ("attention by the stand-in of heads of 64, 128, 256; experts by the stand-in; int8 weights on tensor cores; "
                 "int4 weights on tensor cores; fp8 weights on tensor cores; adapters")
    for flags, line in (([], f"fast_forms={all_forms}"), (["--fast-forms=off"], "fast_forms=none")):
        with Daemon(with_device, model, "--device=cuda", "--memory-bytes=8MiB", *flags) as daemon:
            assert line in device_line(daemon).replace('"', "")


def test_steps_that_decode_are_captured_and_replayed_unless_told_otherwise(with_device, model, golden):
    case = next(case for case in json.loads((golden / "llama3/cases.json").read_text())
                if case["adapter"] == "all_linear" and len(case["prompt"]) <= MOST_PROMPT_TOKENS)
    for flags, replays in ((["--cuda-graphs=on"], True), (["--cuda-graphs=off"], False)):
        flags += ["--device=cuda", f"--adapter-dir={golden / 'llama3/adapters'}", "--memory-bytes=48MiB"]
        with Daemon(with_device, model, *flags) as daemon:
            for _ in range(2):
                answer = generate(daemon, case["prompt"], adapter=case["adapter"], max_tokens=case["max_tokens"],
                                  ignore_eos=True)
                assert answer.token_ids[0] == case["tokens"]
            page = daemon.http("/metrics")[1]
            assert ('how="replayed"' in page) == replays
            assert ('how="captured"' in page) == replays
            assert "capture_failed" not in page


def test_steps_are_launched_behind_others_unless_told_otherwise(with_device, model, golden):
    case = next(case for case in json.loads((golden / "llama3/cases.json").read_text())
                if case["adapter"] == "all_linear" and len(case["prompt"]) <= MOST_PROMPT_TOKENS)
    for flag, behind in (("--async-scheduling=on", True), ("--async-scheduling=off", False)):
        with Daemon(with_device, model, flag, "--device=cuda", f"--adapter-dir={golden / 'llama3/adapters'}",
                    "--memory-bytes=48MiB") as daemon:
            answer = generate(daemon, case["prompt"], adapter=case["adapter"], max_tokens=case["max_tokens"],
                              ignore_eos=True)
            assert answer.token_ids[0] == case["tokens"]
            assert ("lorad_device_steps_behind_total{" in daemon.http("/metrics")[1]) == behind


def test_a_quantised_base_is_served_on_the_device_as_transformers_answers_with_its_rounded_weights(
        with_device, model, golden):
    with Daemon(with_device, model, "--quantize=int8", "--device=cuda", "--memory-bytes=8MiB") as daemon:
        assert daemon.inference.GetModelInfo(inference_pb2.GetModelInfoRequest()).quantization == "int8"
        case = next(case for case in json.loads((golden / "llama3/cases_int8.json").read_text())
                    if not case["adapter"] and len(case["prompt"]) <= MOST_PROMPT_TOKENS)
        answer = generate(daemon, case["prompt"], max_tokens=case["max_tokens"], ignore_eos=True, logprobs=1)
        assert answer.token_ids[0] == case["tokens"]
        assert [entry.logprob for entry in answer.logprobs[0]] == pytest.approx(case["logprobs"], abs=TOLERANCE)


def prompt_logprobs(daemon, tokens, adapter):
    answer = generate(daemon, tokens, adapter=adapter, prompt_logprobs=0, max_tokens=1)
    return [entry.logprob for entry in answer.prompt_logprobs[0][1:]]


def training_daemon(build_dir, model, tmp_path, *flags):
    return Daemon(build_dir, model, "--device=cuda", "--memory-bytes=16MiB", f"--state-dir={tmp_path / 'state'}", *flags)


def test_jobs_train_on_the_device_and_are_served_hot(with_device, model, tmp_path):
    with training_daemon(with_device, model, tmp_path) as daemon:
        assert "emulated device" in device_line(daemon)
        tuning = tuning_support.Tuning(daemon)
        prompt = json.loads(tuning_support.examples()[0])["input_ids"]
        before = prompt_logprobs(daemon, prompt, adapter="")
        made = [tuning_support.spec(name=name, max_steps=15) for name in ("tuned", "beside")]
        made[1].adapter.kind = "dora"
        for job in made:
            job.optimizer.learning_rate = 0.01
        for wanted, submitted in zip(made, [tuning.submit(job) for job in made]):
            job, events = tuning.finish(submitted.id)
            assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
            by_step = tuning_support.losses(events)
            assert sorted(by_step) == list(range(1, 16))
            assert sum(by_step[step] for step in (13, 14, 15)) < 0.9 * sum(by_step[step] for step in (1, 2, 3))
            half = len(prompt) // 2
            assert sum(prompt_logprobs(daemon, prompt, wanted.name)[half:]) > sum(before[half:]) + 0.5
        assert prompt_logprobs(daemon, prompt, adapter="") == before


def test_a_loop_of_a_caller_learns_on_the_device_and_is_served(with_device, model, tmp_path):
    with training_daemon(with_device, model, tmp_path) as daemon:
        run, data = test_training.Run(daemon, "loop"), test_training.draw_data(1)
        losses = test_training.learnt(run, 6, data)
        assert losses[-1] < 0.95 * losses[0]
        last = run.learn(data)
        saved = run.call("SaveForSampling", finetuning_pb2.SaveForSamplingRequest()).adapter
        tokens = [*data[0].token_ids, data[0].target_ids[-1]]
        assert prompt_logprobs(daemon, tokens, saved) == pytest.approx(list(last.scores[0].logprobs), rel=1e-4)


def test_a_micro_batch_that_the_device_has_no_memory_for_is_refused_when_it_is_submitted(with_device, model, tmp_path):
    long = [5] * 250
    with training_daemon(with_device, model, tmp_path) as daemon:
        job = tuning_support.spec(name="large", lines=[json.dumps({"input_ids": long, "labels": long})])
        job.batch_size = job.micro_batch_size = 64
        with pytest.raises(grpc.RpcError) as refused:
            tuning_support.Tuning(daemon).submit(job)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "micro-batch: tokens: 16000, of the longest sequence: 250; bytes" in refused.value.details()
        job.micro_batch_size = 1
        assert tuning_support.Tuning(daemon).submit(job).id


@pytest.mark.parametrize("base, flags", [("llama3", ["--quantize=fp8"]), ("mixtral", [])])
def test_a_job_trains_on_the_device_on_quantised_and_on_routed_bases(with_device, golden, tmp_path, base, flags):
    with training_daemon(with_device, golden / base / "model", tmp_path, *flags) as daemon:
        assert "emulated device" in device_line(daemon)
        tuning = tuning_support.Tuning(daemon)
        job = tuning_support.spec(name="tuned", max_steps=10)
        job.adapter.kind = "dora"
        job.optimizer.learning_rate = 0.01
        done, events = tuning.finish(tuning.submit(job).id)
        assert done.state == finetuning_pb2.JOB_STATE_SUCCEEDED, done.reason
        by_step = tuning_support.losses(events)
        assert sum(by_step[step] for step in (8, 9, 10)) < sum(by_step[step] for step in (1, 2, 3))
        prompt = json.loads(tuning_support.examples()[0])["input_ids"]
        half = len(prompt) // 2
        assert sum(prompt_logprobs(daemon, prompt, "tuned")[half:]) > sum(prompt_logprobs(daemon, prompt, "")[half:])


def test_the_dashboard_shows_every_metric_of_a_device(with_device, model, golden):
    flags = ["--device=cuda", f"--adapter-dir={golden / 'llama3/adapters'}", "--memory-bytes=48MiB"]
    with Daemon(with_device, model, *flags) as daemon:
        drive(daemon)
        names = {re.split(r"[{ ]", line)[0] for line in daemon.http("/metrics")[1].splitlines() if not line.startswith("#")}
    assert OF_A_DEVICE <= names
    shown = set().union(*(metrics_of(query) for query in dashboard_queries().values()))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in names} <= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


def start(build_dir, model, *flags):
    return subprocess.run([build_dir / "bin/lorad", f"--model={model}", *flags], capture_output=True, text=True,
                          timeout=WAIT_SECONDS)


def test_a_pool_larger_than_the_device_is_refused_with_what_is_left(with_device, model):
    done = start(with_device, model, "--device=cuda", "--memory-bytes=4GiB")
    assert done.returncode == 1
    assert "free on the device: " in done.stderr and "lower --memory-bytes" in done.stderr


def test_without_its_library_cuda_is_refused_with_where_it_was_looked_for_and_auto_takes_the_cpu(with_device, model):
    (with_device / "lib/liblorad_cuda.so").unlink()
    done = start(with_device, model, "--device=cuda")
    assert done.returncode == 1
    assert "--device: cuda; CUDA operators: no " in done.stderr and "/lib/liblorad_cuda.so; " in done.stderr
    with Daemon(with_device, model, "--device=auto") as daemon:
        assert "CUDA operators: no " in device_line(daemon)
        assert_warned(daemon)


def test_a_library_that_does_not_load_is_refused_with_the_reason(with_device, model):
    (with_device / "lib/liblorad_cuda.so").write_bytes(b"no library")
    done = start(with_device, model, "--device=cuda")
    assert done.returncode == 1
    assert "liblorad_cuda.so" in done.stderr and "--device: cuda; CUDA operators: " in done.stderr


def without_driver(folder, monkeypatch):
    """A libcuda.so.1 that does not load, instead of the machine's, if it has one."""
    folder.mkdir()
    (folder / "libcuda.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))


def test_without_a_device_cuda_is_refused_and_auto_says_nothing_of_it_where_no_driver_is(with_device, model, monkeypatch, tmp_path):
    without_driver(tmp_path / "driver", monkeypatch)
    done = start(with_device, model, "--device=cuda")
    assert done.returncode == 1
    assert "--device: cuda; CUDA devices: 0; limit: 1 or more; " in done.stderr and "file too short" in done.stderr
    with Daemon(with_device, model, "--device=auto") as daemon:
        if any(pathlib.Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/nvidiactl")):
            assert_warned(daemon)
        else:
            assert " info device device=cpu " in device_line(daemon) and "CUDA devices: 0" in device_line(daemon)
            assert not any(" warning " in line for line in daemon.log)


@pytest.mark.parametrize("start_code", ["", "100"])
def test_a_build_for_cpus_is_not_warned_of_traces_of_a_driver(with_device, model, monkeypatch, tmp_path, start_code):
    (with_device / "lib/liblorad_cuda.so").unlink()
    if start_code:  # the driver's library is here, and no device
        monkeypatch.setenv("LORAD_EMULATED_INIT", start_code)
    else:
        without_driver(tmp_path / "driver", monkeypatch)
    with Daemon(with_device, model, "--device=auto") as daemon:
        assert " info device device=cpu " in device_line(daemon) and "CUDA operators: no " in device_line(daemon)
        assert "image for GPUs" in device_line(daemon) and not any(" warning " in line for line in daemon.log)


def test_a_device_that_is_hidden_is_warned_of_unless_the_cpu_is_asked_for(with_device, model, monkeypatch):
    monkeypatch.setenv("LORAD_EMULATED_INIT", "100")
    with Daemon(with_device, model, "--device=auto") as daemon:
        assert "cuInit: 100 (CUDA_ERROR_NO_DEVICE); " in device_line(daemon)
        assert_warned(daemon)
    done = start(with_device, model, "--device=cuda")
    assert done.returncode == 1 and "cuInit: 100 (CUDA_ERROR_NO_DEVICE); " in done.stderr
    with Daemon(with_device, model, "--device=cpu") as daemon:
        assert " info device device=cpu why=--device=cpu" in device_line(daemon).replace('"', "")


@pytest.mark.parametrize("variable, value, why", [
    ("LORAD_EMULATED_CAPABILITY", "75", "compute capability: 7.5; limit: 8.0 or later"),
    ("LORAD_EMULATED_DRIVER", "12040", "CUDA of the driver: 12.4; limit: 13.0 or later"),
])
def test_a_device_or_driver_that_is_too_old_is_refused_by_name_and_passed_by(
        with_device, model, monkeypatch, variable, value, why):
    monkeypatch.setenv(variable, value)
    done = start(with_device, model, "--device=cuda")
    assert done.returncode == 1
    assert why in done.stderr
    with Daemon(with_device, model, "--device=auto") as daemon:
        assert why in device_line(daemon)
        assert_warned(daemon)
