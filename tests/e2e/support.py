"""A daemon as a test sees it."""

import contextlib
import json
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request

import grpc
from lorad.v1 import adapters_pb2_grpc, inference_pb2, inference_pb2_grpc

START_SECONDS = 120
WAIT_SECONDS = 60


class Daemon:
    device = ""  # of those that ask for none; "": lorad's choice

    def __init__(self, build_dir, model_dir, *flags):
        self.build_dir = build_dir
        command = [build_dir / "bin/lorad", f"--model={model_dir}", *flags]
        if not any(flag.startswith("--listen") for flag in flags):
            command.append("--listen=127.0.0.1:0")
        if not any(flag.startswith("--metrics") for flag in flags):
            command.append("--metrics=127.0.0.1:0")
        if not any(flag.startswith("--memory-bytes") for flag in flags):
            command.append("--memory-bytes=64MiB")
        if self.device and not any(flag.startswith("--device") for flag in flags):
            command.append(f"--device={self.device}")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        line = self._ready_line()
        found = re.match(r"ready listen=(\S+) metrics=(\S+) model=(\S+)", line)
        assert found, f"no ready line: {line!r}; log: {''.join(self.log)}"
        self.address, self.metrics_address, self.model_name = found.groups()
        self.channel = grpc.insecure_channel(self.address, options=[("grpc.max_receive_message_length", -1)])
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.adapters = adapters_pb2_grpc.AdaptersStub(self.channel)

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def _ready_line(self):
        timer = threading.Timer(START_SECONDS, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline()
        finally:
            timer.cancel()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        code = self.stop()
        assert code == 0 or error[0] is not None, f"exit code {code}; log: {''.join(self.log)}"

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """Drains it; the exit code."""
        self.terminate()
        try:
            code = self.process.wait(WAIT_SECONDS)
        finally:
            self.kill()
        return code

    def kill(self):
        with contextlib.suppress(AttributeError):
            self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def http(self, path):
        """(status, text) of the HTTP port."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics_address}{path}", timeout=WAIT_SECONDS) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name, **labels):
        """The value of one series, 0 when it is not there yet."""
        for line in self.http("/metrics")[1].splitlines():
            if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def is_idle(self):
        return self.metric("vllm:num_requests_running") == 0 and self.metric("vllm:num_requests_waiting") == 0

    def ctl(self, *arguments, **options):
        command = [self.build_dir / "bin/adapterctl", f"--server={self.address}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, **options)


class Answer:
    """What a Generate call said, by index of n."""

    def __init__(self, n=1):
        self.text = [""] * n
        self.token_ids = [[] for _ in range(n)]
        self.logprobs = [[] for _ in range(n)]
        self.prompt_logprobs = [[] for _ in range(n)]
        self.finish = [None] * n
        self.abort_detail = [""] * n
        self.usage = [None] * n
        self.adapter = [None] * n

    def add(self, message):
        i = message.index
        assert self.finish[i] is None, "a message after the sequence's last"
        if self.adapter[i] is None:
            self.adapter[i] = message.adapter
        self.text[i] += message.text
        self.token_ids[i] += message.token_ids
        self.logprobs[i] += message.logprobs
        self.prompt_logprobs[i] += message.prompt_logprobs
        if message.finish_reason != inference_pb2.FINISH_REASON_UNSPECIFIED:
            self.finish[i] = message.finish_reason
            self.usage[i] = message.usage
            self.abort_detail[i] = message.abort_detail


def request(prompt, adapter="", n=1, logprobs=None, prompt_logprobs=None, **sampling):
    """Greedy unless told otherwise; a list of ids or a text."""
    sampling.setdefault("temperature", 0)
    made = inference_pb2.GenerateRequest(adapter=adapter, sampling=inference_pb2.SamplingParams(n=n, **sampling))
    if isinstance(prompt, str):
        made.text = prompt
    else:
        made.token_ids.ids.extend(prompt)
    if logprobs is not None:
        made.logprobs = logprobs
    if prompt_logprobs is not None:
        made.prompt_logprobs = prompt_logprobs
    return made


def collect(call, n=1):
    answer = Answer(n)
    for message in call:
        answer.add(message)
    assert all(reason is not None for reason in answer.finish), "a sequence without an end"
    return answer


def generate(daemon, prompt, timeout=WAIT_SECONDS, **options):
    made = request(prompt, **options)
    return collect(daemon.inference.Generate(made, timeout=timeout), n=options.get("n", 1))


def refusal(call):
    """The error of a call, unary or streaming."""
    try:
        result = call()
        if hasattr(result, "__iter__"):
            list(result)
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call was not refused")


def wait_until(condition, seconds=WAIT_SECONDS):
    """Polls a condition; fails when it never comes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def longer(model, folder, context):
    """The same base, with a longer context."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))
    return folder


def write_alora(adapter, folder, invocation):
    """A copy of a plain LoRA that is active from these tokens on."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alora_invocation_tokens": invocation}))
    return str(folder)


def write_mixlora(folder):
    """A MixLoRA of two experts for the golden llama3, whose routers tell them not apart: each row goes to the first."""
    folder, hidden, inner, rank = pathlib.Path(folder), 64, 88, 2
    shapes = {}
    for layer in range(2):
        mlp = f"mixlora.layers.{layer}.mlp"
        shapes[f"{mlp}.moe_gate.weight"] = (2, hidden)
        for expert in range(2):
            shapes[f"{mlp}.down_proj.experts.{expert}.lora_A.weight"] = (rank, inner)
            shapes[f"{mlp}.down_proj.experts.{expert}.lora_B.weight"] = (hidden, rank)
    header, data = {}, b""
    for name, (rows, columns) in shapes.items():
        values = [0.0 if "moe_gate" in name else 0.01 * (i % 7) for i in range(rows * columns)]
        end = len(data) + 4 * len(values)
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [len(data), end]}
        data += struct.pack(f"<{len(values)}f", *values)
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "MIXLORA", "routing_strategy": "mixlora", "num_experts": 2, "top_k": 1, "r": rank, "lora_alpha": 4,
        "lora_dropout": 0.05, "target_modules": ["down_proj"]}))
    return str(folder)


def word_tokenizer(words):
    """A tokenizer.json whose token i is words[i], but for 2, the end; unknown words are token 0."""
    vocab = {("</s>" if i == 2 else word): i for i, word in enumerate(words)}
    special = {"id": 2, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": words[0]},
    })
