"""The daemon as a process: start, health, reflection, metrics, drain, what goes wrong at start."""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from lorad.v1 import finetuning_pb2, finetuning_pb2_grpc, inference_pb2
from support import WAIT_SECONDS, Answer, collect, generate, longer, refusal, request, wait_until


def run(build_dir, *flags):
    return subprocess.run([build_dir / "bin/lorad", *flags], capture_output=True, text=True, timeout=WAIT_SECONDS)


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_health_says_serving_by_service_and_in_all(daemon):
    stub = health_pb2_grpc.HealthStub(daemon.channel)
    for service in ("", "lorad.v1.Inference", "lorad.v1.Adapters", "lorad.v1.FineTuning", "lorad.v1.Training"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
    error = refusal(lambda: stub.Check(health_pb2.HealthCheckRequest(service="nobody")))
    assert error.code() == grpc.StatusCode.NOT_FOUND


def test_process_lists_show_its_name(daemon):
    assert pathlib.Path(f"/proc/{daemon.process.pid}/comm").read_text() == "lorad\n"


def test_reflection_lists_the_services_and_their_methods(daemon):
    database = ProtoReflectionDescriptorDatabase(daemon.channel)
    services = set(database.get_services())
    assert {"lorad.v1.Inference", "lorad.v1.Adapters", "lorad.v1.FineTuning", "lorad.v1.Training", "grpc.health.v1.Health"} <= services
    file = database.FindFileContainingSymbol("lorad.v1.Inference")
    assert "Generate" in [method.name for method in file.service[0].method]


def test_a_connection_of_some_age_ends_and_the_next_call_has_another(start_daemon):
    daemon = start_daemon("--max-connection-age=1")
    seen = []
    daemon.channel.subscribe(seen.append)
    generate(daemon, [5, 6, 7], max_tokens=2)
    wait_until(lambda: grpc.ChannelConnectivity.READY in seen)
    wait_until(lambda: grpc.ChannelConnectivity.IDLE in seen[seen.index(grpc.ChannelConnectivity.READY):])
    assert generate(daemon, [5, 6, 7], max_tokens=2).usage[0].completion_tokens > 0


def test_a_stream_outlives_the_age_of_its_connection(start_daemon, model, tmp_path):
    daemon = start_daemon("--max-connection-age=1", model_dir=longer(model, tmp_path / "model", context=4096))
    seen = []
    daemon.channel.subscribe(seen.append)
    # More than a connection takes of a stream that nobody reads: it cannot have ended before it is read.
    call = daemon.inference.Generate(request([5, 6, 7], max_tokens=3000, ignore_eos=True, logprobs=5), timeout=WAIT_SECONDS)
    answer = Answer()
    answer.add(next(call))
    wait_until(lambda: grpc.ChannelConnectivity.READY in seen)
    wait_until(lambda: grpc.ChannelConnectivity.IDLE in seen[seen.index(grpc.ChannelConnectivity.READY):])
    for message in call:
        answer.add(message)
    assert len(answer.token_ids[0]) == 3000 and answer.finish[0] == inference_pb2.FINISH_REASON_LENGTH


def test_training_needs_a_state_folder(daemon):
    stub = finetuning_pb2_grpc.TrainingStub(daemon.channel)
    error = refusal(lambda: stub.CreateRun(finetuning_pb2.CreateRunRequest()))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and "--state-dir" in error.details()


def test_metrics_tell_of_what_was_served(daemon):
    before = daemon.metric("vllm:generation_tokens_total"), daemon.metric("vllm:prompt_tokens_total")
    generate(daemon, [5, 6, 7], max_tokens=10, ignore_eos=True, adapter="q_v")
    wait_until(lambda: daemon.metric("vllm:prompt_tokens_total") == before[1] + 3)
    assert daemon.metric("vllm:generation_tokens_total") == before[0] + 10
    assert daemon.metric("lorad_adapter_generation_tokens_total", adapter="q_v") >= 10
    assert daemon.metric("vllm:cache_config_info", block_size="16") == 1
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
                 "request_queue_time_seconds"):
        assert daemon.metric(f"vllm:{name}_count") > 0, name
    assert daemon.metric("lorad_adapter_load_seconds_count", source="disk") > 0
    assert daemon.metric("lorad_step_seconds_count") > 0


def test_a_stop_string_is_no_abort(daemon):
    # On a busy machine the engine may come to the request's own end before it hears of the stop string.
    ended = lambda: sum(daemon.metric("vllm:request_success_total", finished_reason=r) for r in ("stop", "length"))
    before = ended()
    aborted = daemon.metric("vllm:request_success_total", finished_reason="abort")
    answer = generate(daemon, [5, 6, 7], max_tokens=100, ignore_eos=True, stop=["w"])
    assert answer.finish[0] == inference_pb2.FINISH_REASON_STOP
    wait_until(lambda: ended() == before + 1)
    assert daemon.metric("vllm:request_success_total", finished_reason="abort") == aborted


def test_the_metrics_page_is_well_formed(daemon):
    status, text = daemon.http("/metrics")
    assert status == 200
    sample = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]\w*="([^"\\\n]|\\.)*",?)*\})? [-+0-9.eEInfNa]+')
    series = set()
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        assert sample.fullmatch(line), line
        assert line.rsplit(" ", 1)[0] not in series, line
        series.add(line.rsplit(" ", 1)[0])
        assert f'model_name="{daemon.model_name}"' in line
    assert sum(name.startswith("vllm:lora_requests_info{") for name in series) == 1


def test_the_http_port_answers_its_paths_and_refuses_the_rest(daemon):
    assert daemon.http("/health") == (200, "ok\n")
    assert "/metrics" in daemon.http("/")[1]
    assert daemon.http("/nothing")[0] == 404
    host, port = daemon.metrics_address.rsplit(":", 1)
    for sent, expected in ((b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"405"),
                           (b"GET / HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\n\r\n", b"431")):
        with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as connection:
            connection.sendall(sent)
            assert connection.recv(4096).split()[1] == expected


def test_the_http_port_outlives_too_many_connections_and_too_few_descriptors(start_daemon):
    daemon = start_daemon()
    host, port = daemon.metrics_address.rsplit(":", 1)
    address = (host, int(port))
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(socket.create_connection(address, timeout=WAIT_SECONDS))
        with socket.create_connection(address, timeout=WAIT_SECONDS) as one_more:
            assert one_more.recv(4096).split()[1] == b"503"
    wait_until(lambda: daemon.http("/health")[0] == 200)

    pid = daemon.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    with socket.create_connection(address, timeout=WAIT_SECONDS):
        before = processor_seconds(pid)
        time.sleep(1)
        assert processor_seconds(pid) - before < 0.5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert daemon.http("/health") == (200, "ok\n")
    assert daemon.stop() == 0


def test_metrics_can_be_turned_off(start_daemon):
    daemon = start_daemon("--metrics=")
    assert daemon.metrics_address == "none"
    assert generate(daemon, [1], max_tokens=1).finish[0] is not None
    assert daemon.stop() == 0


def test_sigterm_lets_running_streams_end_and_takes_no_new_ones(start_daemon):
    daemon = start_daemon()
    health = health_pb2_grpc.HealthStub(daemon.channel)
    calls = [daemon.inference.Generate(request([i], n=16, max_tokens=250, ignore_eos=True)) for i in range(1, 5)]
    firsts = [next(call) for call in calls]
    daemon.terminate()
    wait_until(lambda: daemon.process.poll() is not None or any("draining" in line for line in daemon.log))
    error = refusal(lambda: daemon.inference.Generate(request([1], max_tokens=1)))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda pair: collect([pair[0], *pair[1]], n=16), zip(firsts, calls)))
    for answer in answers:
        assert answer.finish == [inference_pb2.FINISH_REASON_LENGTH] * 16
        assert all(len(ids) == 250 for ids in answer.token_ids)
    assert daemon.process.wait(WAIT_SECONDS) == 0
    refusal(lambda: health.Check(health_pb2.HealthCheckRequest()))


def test_a_second_signal_ends_it_at_once(start_daemon):
    daemon = start_daemon()
    call = daemon.inference.Generate(request([1], n=64, max_tokens=250, ignore_eos=True))
    next(call)
    daemon.process.send_signal(signal.SIGINT)
    daemon.process.send_signal(signal.SIGTERM)
    code = daemon.process.wait(WAIT_SECONDS)
    assert code in (128 + signal.SIGINT, 128 + signal.SIGTERM), code


def test_a_port_in_use_is_told_before_the_model_is_loaded(build_dir, daemon, model):
    failed = run(build_dir, f"--model={model}", f"--listen={daemon.address}", "--metrics=")
    assert failed.returncode == 1
    assert f"--listen: {daemon.address}" in failed.stderr and "model_loaded" not in failed.stderr
    failed = run(build_dir, f"--model={model}", "--listen=127.0.0.1:0", f"--metrics={daemon.metrics_address}")
    assert failed.returncode == 1
    assert f"--metrics: {daemon.metrics_address}" in failed.stderr and "model_loaded" not in failed.stderr


PORTS = ("--listen=127.0.0.1:0", "--metrics=")


def test_what_cannot_start_says_why(build_dir, model, golden, tmp_path):
    def good(count, prefix="a"):
        return [f"--adapter={prefix}{i}={golden}/llama3/adapters/q_v" for i in range(count)]

    for flags, code, text in (
        ([], 2, "--model"),
        ([f"--model={model}", "--device=cuda", "--quantize=fp4"], 2, "--quantize: fp4"),
        ([f"--model={model}", "--queue-limit=0"], 2, "--queue-limit: 0"),
        ([f"--model={tmp_path}", *PORTS], 1, "config.json"),
        ([f"--model={model}", "--dtype=float16", *PORTS], 1, "float16"),
        ([f"--model={model}", f"--adapter-dir={tmp_path}/nowhere", *PORTS], 1, "nowhere"),
        ([f"--model={model}", f"--adapter=a={golden}/refused/r_zero", *PORTS], 1, "--adapter=a: "),
        ([f"--model={model}", *good(8), f"--adapter=b={golden}/missing", *good(8, "z"), *PORTS], 1, "--adapter=b: "),
        ([f"--model={model}", *good(8), f"--adapter=b={golden}/refused/r_zero", *PORTS], 1, "--adapter=b: "),
        ([f"--model={model}", *good(2), "--adapter=..=x", *PORTS], 1, "adapter name: .."),
    ):
        failed = run(build_dir, *flags)
        assert failed.returncode == code, (flags, failed.stderr)
        assert text in failed.stderr, (flags, failed.stderr)


def test_a_folder_that_a_flag_names_and_that_is_not_there_is_told_by_the_flag_before_the_model_is_read(build_dir, model, tmp_path):
    nowhere = tmp_path / "nowhere"
    for flag in (f"--adapter-dir={nowhere}", f"--adapter=a={nowhere}"):
        failed = run(build_dir, f"--model={model}", flag, *PORTS)
        assert failed.returncode == 1 and "model_loaded" not in failed.stderr
        assert flag.rsplit("=", 1)[0] in failed.stderr and str(nowhere) in failed.stderr
    failed = run(build_dir, "--model=meta-llama/Llama-3.1-8B", *PORTS)
    assert failed.returncode == 1
    assert "--model: meta-llama/Llama-3.1-8B; " in failed.stderr and "nothing is downloaded" in failed.stderr


def test_a_state_folder_that_cannot_be_made_is_told_by_its_flag(build_dir, model, tmp_path):
    (tmp_path / "file").write_text("")
    failed = run(build_dir, f"--model={model}", f"--state-dir={tmp_path / 'file' / 'state'}", *PORTS)
    assert failed.returncode == 1 and "--state-dir: " in failed.stderr


def test_a_pool_larger_than_what_is_free_is_warned_of(start_daemon):
    all_bytes = 1024 * next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal:"))
    daemon = start_daemon("--device=cpu", f"--memory-bytes={all_bytes}")
    wait_until(lambda: any("warning memory " in line and "lower --memory-bytes" in line for line in daemon.log))
    assert daemon.stop() == 0


def test_bases_that_must_be_refused_are(build_dir, golden):
    """A sample: tests/model has all of them; here the process ends well, with the reason."""
    folders = sorted(folder for folder in (golden / "refused_models").iterdir() if folder.is_dir())[::15]
    assert len(folders) > 3
    for folder in folders:
        failed = run(build_dir, f"--model={folder}", *PORTS, "--memory-bytes=16MiB")
        assert failed.returncode == 1, (folder.name, failed.returncode, failed.stderr)
        assert "status=" in failed.stderr, folder.name


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version(build_dir, flag):
    said = run(build_dir, flag)
    assert said.returncode == 0 and "lorad" in said.stdout


def test_bfloat16_serves(start_daemon, golden):
    daemon = start_daemon(f"--adapter-dir={golden / 'qwen3/adapters'}", model_dir=golden / "qwen3/model")
    assert daemon.inference.GetModelInfo(inference_pb2.GetModelInfoRequest()).dtype == "bfloat16"
    assert len(generate(daemon, [5, 6, 7], max_tokens=20, ignore_eos=True).token_ids[0]) == 20
    assert daemon.stop() == 0
