"""What many callers, or odd ones, may cost: memory stays bounded, and everybody else is served."""

import collections
import concurrent.futures
import contextlib
import json
import pathlib
import signal
import socket
import struct
import time

import grpc
import pytest
from lorad.v1 import adapters_pb2, inference_pb2
from support import WAIT_SECONDS, collect, generate, longer, refusal, request, wait_until

LENGTH = inference_pb2.FINISH_REASON_LENGTH


def resident_mib(daemon):
    for line in pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def large_adapter(model, folder, rank):
    """An adapter of zeros on every linear of the tiny base, large enough that loading takes a while."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    kv = config["num_key_value_heads"] * head_dim
    shapes = {"self_attn.q_proj": (hidden, heads * head_dim), "self_attn.k_proj": (hidden, kv), "self_attn.v_proj": (hidden, kv),
              "self_attn.o_proj": (heads * head_dim, hidden), "mlp.gate_proj": (hidden, inner), "mlp.up_proj": (hidden, inner),
              "mlp.down_proj": (inner, hidden)}
    header, offset = {}, 0
    for layer in range(config["num_hidden_layers"]):
        for module, (inputs, outputs) in shapes.items():
            for name, shape in (("lora_A", [rank, inputs]), ("lora_B", [outputs, rank])):
                size = 4 * shape[0] * shape[1]
                header[f"base_model.model.model.layers.{layer}.{module}.{name}.weight"] = {
                    "dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
                offset += size
    folder.mkdir()
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": rank, "lora_alpha": 1, "target_modules": [module.split(".")[1] for module in shapes]}))
    return folder


@pytest.mark.parametrize("years", [1, 100, 230])
def test_a_far_deadline_is_none(daemon, years):
    """grpcio itself ends calls whose deadline lies behind the year 2262 (64 bits of nanoseconds) before it sends them."""
    assert generate(daemon, [3], timeout=years * 365.25 * 24 * 3600, max_tokens=2, ignore_eos=True).finish[0] == LENGTH


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call_frames(stream, method, message, **headers):
    """A whole call on a stream, over HTTP/2 by hand."""
    fields = {":method": "POST", ":scheme": "http", ":path": f"/lorad.v1.Inference/{method}", ":authority": "x", "te": "trailers",
              "content-type": "application/grpc"} | {key.replace("_", "-"): value for key, value in headers.items()}
    header = b"".join(b"\0" + bytes([len(key)]) + key.encode() + bytes([len(value)]) + value.encode() for key, value in fields.items())
    body = message.SerializeToString()
    return frame(1, 4, stream, header) + frame(0, 1, stream, b"\0" + struct.pack(">I", len(body)) + body)


def connect(daemon, settings=b""):
    host, port = daemon.address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=WAIT_SECONDS)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, settings))
    return connection


def answered_bytes(daemon, timeout):
    """Bytes of messages that Generate sends to a caller with this grpc-timeout; no client sends these."""
    with connect(daemon) as connection, connection.makefile("rb") as replies:
        connection.sendall(call_frames(1, "Generate", request([3], max_tokens=2, ignore_eos=True), grpc_timeout=timeout))
        answered = 0
        while True:
            length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + replies.read(9))
            replies.read(length)
            if kind == 0:
                answered += length
            if stream == 1 and flags & 1 and kind in (0, 1):  # the end of the stream
                return answered


@pytest.mark.parametrize("timeout", ["99999999H", "99999999M", "99999999S", "9999999H", "2000000H"])
def test_the_largest_timeouts_of_the_protocol_are_served(daemon, timeout):
    assert answered_bytes(daemon, timeout) > 0


@pytest.mark.parametrize("seconds", ["7e9", "9.3e9", "1e12", "1e300"])
def test_adapterctl_takes_any_timeout(daemon, seconds):
    done = daemon.ctl("generate", f"--timeout={seconds}", "--max-tokens=2", "w1")
    assert done.returncode == 0, done.stderr


def test_cancelled_requests_leave_nothing_behind(start_daemon):
    daemon = start_daemon("--queue-limit=4096")

    def storm(waves):
        """Waves of calls, half of them cancelled before they could begin, the others while they run. The next begins when
        nothing is left of the one before: a daemon that is slow to hear of cancels would else hold ever more calls at once."""
        for _ in range(waves):
            waiting = []
            for i in range(200):
                call = daemon.inference.Generate(request([1 + i % 90], max_tokens=250, ignore_eos=True))
                if i % 2:
                    call.cancel()
                else:
                    waiting.append(call)
            for call in waiting:
                call.cancel()
            generate(daemon, [1], max_tokens=1)  # Whatever was sent before it has arrived.
            wait_until(lambda: daemon.is_idle() and daemon.metric("lorad_pool_pages", owner="kv") == 0)

    storm(10)
    before = resident_mib(daemon)
    storm(60)
    # A machine that is shared makes higher peaks; what is only free goes back to the system within seconds.
    wait_until(lambda: resident_mib(daemon) - before < 24)
    assert generate(daemon, [1], max_tokens=2).finish[0] is not None
    assert daemon.stop() == 0


def test_answers_that_nobody_reads_do_not_pile_up(start_daemon, model, tmp_path):
    """Each holds some 9 MB of log-probabilities; past 64 MiB together the one idle longest is given up."""
    daemon = start_daemon("--memory-bytes=256MiB", "--max-batch-tokens=4096", model_dir=longer(model, tmp_path / "longer", 4096))
    prompt = [3 + i % 90 for i in range(3000)]
    small_windows = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    from lorad.v1 import inference_pb2_grpc

    with grpc.insecure_channel(daemon.address, options=small_windows) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        calls = [stub.Generate(request(prompt, n=16, max_tokens=1, ignore_eos=True, prompt_logprobs=20)) for _ in range(9)]
        wait_until(lambda: any("client_never_read" in line for line in daemon.log), seconds=300)
        assert generate(daemon, [1], max_tokens=2).finish[0] is not None
        codes = []
        for call in calls:
            with contextlib.suppress(grpc.RpcError):
                collections.deque(call, maxlen=0)
            codes.append(call.code())
        assert set(codes) == {grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}, codes
    assert daemon.stop() == 0


def test_unary_answers_that_nobody_reads_do_not_pile_up(start_daemon, model, tmp_path):
    """A caller whose windows are closed asks for 160 MB of text; past 64 MiB together the one idle longest is given up."""
    folder = longer(model, tmp_path / "wordy", 4096)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    tokenizer["model"]["vocab"]["x" * 2000] = 100
    del tokenizer["model"]["vocab"]["w100"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    daemon = start_daemon(model_dir=folder)
    message = inference_pb2.DetokenizeRequest(token_ids=[100] * 4096)
    closed = struct.pack(">HI", 4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE
    with connect(daemon, closed) as connection, connection.makefile("rb") as replies:
        for i in range(20):
            connection.sendall(call_frames(2 * i + 1, "Detokenize", message))
        reset = 0
        while reset < 12:  # of 20 of 8 MB each, eight may stay
            length, kind, _flags, _stream = struct.unpack(">IBBI", b"\0" + replies.read(9))
            replies.read(length)
            reset += kind == 3
    assert generate(daemon, [1], max_tokens=2).finish[0] is not None
    assert daemon.stop() == 0


def test_long_texts_are_tokenised_beside_the_calls_of_others(start_daemon, model, tmp_path):
    """Above 64 KiB a text waits for its turn on a thread of its own: also then it is answered, or can be cancelled."""
    daemon = start_daemon("--memory-bytes=256MiB", model_dir=longer(model, tmp_path / "longer", 65536))
    words = "w7 " * 22_000
    assert len(words) > 65536
    tokenized = daemon.inference.Tokenize(inference_pb2.TokenizeRequest(text=words))
    assert list(tokenized.token_ids) == [7] * 22_000
    calls = [daemon.inference.Generate(request(words, max_tokens=2, ignore_eos=True)) for _ in range(12)]
    for call in calls[1:]:
        call.cancel()
    answer = collect(calls[0])
    assert answer.finish[0] == LENGTH and answer.usage[0].prompt_tokens == 22_000
    wait_until(lambda: daemon.is_idle() and daemon.metric("lorad_pool_pages", owner="kv") == 0)
    error = refusal(lambda: daemon.inference.Tokenize(inference_pb2.TokenizeRequest(text="w7 " * 360_000)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "limit: 0 to 1048576" in error.details()
    assert daemon.stop() == 0


def test_a_malformed_message_is_refused_without_a_line_in_the_log(start_daemon):
    """Else any caller could fill the disk."""
    daemon = start_daemon()
    generate_bytes = daemon.channel.unary_stream("/lorad.v1.Inference/Generate")
    for _ in range(50):
        refusal(lambda: generate_bytes(b"\x12\x02\xff\xfe"))  # an adapter's name that is not UTF-8; the code is gRPC's own
    assert generate(daemon, [1], max_tokens=2).finish[0] is not None
    assert daemon.stop() == 0
    assert not [line for line in daemon.log if "protobuf" in line]


def test_loads_under_way_are_bounded(start_daemon, model, tmp_path):
    daemon = start_daemon("--memory-bytes=256MiB")
    folder = large_adapter(model, tmp_path / "large", 512)
    # All calls wait in its sockets before the first is looked at, so that they come faster than any load ends.
    daemon.process.send_signal(signal.SIGSTOP)
    calls = [daemon.adapters.LoadAdapter.future(adapters_pb2.LoadAdapterRequest(name=f"a{i}", path=str(folder)))
             for i in range(600)]
    daemon.process.send_signal(signal.SIGCONT)
    codes = collections.Counter()
    for call in calls:
        error = call.exception(timeout=WAIT_SECONDS)
        codes[error.code() if error else None] += 1
        if error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "limit: 256" in error.details()
    assert codes[None] >= 256 and codes[grpc.StatusCode.RESOURCE_EXHAUSTED] > 0, codes
    again = daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="again", path=str(folder)))
    assert again.rank_max == 512
    assert daemon.stop() == 0


def test_requests_that_outlast_the_drain_are_aborted_with_the_reason(start_daemon, model, tmp_path):
    daemon = start_daemon("--drain-seconds=1", "--memory-bytes=256MiB", model_dir=longer(model, tmp_path / "longer", 65536))
    calls = [daemon.inference.Generate(request([i], max_tokens=60000, ignore_eos=True)) for i in range(1, 9)]
    firsts = [next(call) for call in calls]
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pair: collect([pair[0], *pair[1]]), zip(firsts, calls)))
    assert daemon.process.wait(WAIT_SECONDS) == 0
    assert time.monotonic() - began >= 1
    for answer in answers:
        assert answer.finish[0] == inference_pb2.FINISH_REASON_ABORT
        assert "shutting down" in answer.abort_detail[0]


def test_a_name_is_shown_as_what_new_requests_get(start_daemon, golden, model, tmp_path):
    """Also while the version before drains, under the same name."""
    adapters = golden / "llama3/adapters"
    daemon = start_daemon("--memory-bytes=256MiB", model_dir=longer(model, tmp_path / "longer", 65536))
    load = adapters_pb2.LoadAdapterRequest(name="a", path=str(adapters / "q_v"))
    old = daemon.adapters.LoadAdapter(load)
    call = daemon.inference.Generate(request([1], adapter="a", max_tokens=60000, ignore_eos=True))
    next(call)
    load.path, load.replace = str(adapters / "rslora"), True
    new = daemon.adapters.LoadAdapter(load)
    listed = daemon.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest()).adapters
    assert {adapter.state for adapter in listed} == {adapters_pb2.ADAPTER_STATE_RESIDENT, adapters_pb2.ADAPTER_STATE_DRAINING}
    shown = daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name="a"))
    assert shown.digest == new.digest != old.digest and shown.state == adapters_pb2.ADAPTER_STATE_RESIDENT
    call.cancel()
    assert daemon.stop() == 0
