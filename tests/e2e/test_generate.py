"""Generate over the wire: golden answers, sampling, limits, cancelling."""

import concurrent.futures
import json
import pathlib
import subprocess
import sys

import grpc
import pytest
from lorad.v1 import inference_pb2
from support import Daemon, collect, generate, longer, refusal, request, wait_until

STOP = inference_pb2.FINISH_REASON_STOP
LENGTH = inference_pb2.FINISH_REASON_LENGTH
GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
OTHER_BASES = sorted(model.parent.name for model in GOLDEN.glob("*/model") if model.parent.name != "llama3")


def golden_case(daemon, case, **options):
    return generate(daemon, case["prompt"], adapter=case["adapter"], max_tokens=case["max_tokens"], ignore_eos=True, **options)


def served(cases):
    return [case for case in cases.values() if case.get("expect") != "later"]


def test_greedy_tokens_and_logprobs_are_those_of_transformers_and_peft(daemon, cases):
    for case in served(cases):
        answer = golden_case(daemon, case, logprobs=5, prompt_logprobs=0)
        assert answer.token_ids[0] == case["tokens"], case["name"]
        assert answer.adapter[0] == case["adapter"]
        assert answer.finish[0] == LENGTH
        assert answer.usage[0].prompt_tokens == len(case["prompt"])
        assert answer.usage[0].completion_tokens == case["max_tokens"]
        assert [token.logprob for token in answer.logprobs[0]] == pytest.approx(case["logprobs"], abs=5e-4), case["name"]
        for token, top in zip(answer.logprobs[0], case["top"]):
            assert [other.logprob for other in token.top] == pytest.approx([logprob for _, logprob in top], abs=5e-4)
        first, *rest = answer.prompt_logprobs[0]
        assert not first.HasField("logprob")
        assert [token.token_id for token in answer.prompt_logprobs[0]] == case["prompt"]
        assert [token.logprob for token in rest] == pytest.approx(case["prompt_logprobs"], abs=5e-4), case["name"]


def test_mixed_streams_give_each_request_what_it_gets_alone(daemon, cases):
    mixed = served(cases) * 2
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda case: golden_case(daemon, case), mixed))
    for case, answer in zip(mixed, answers):
        assert answer.token_ids[0] == case["tokens"], case["name"]


def test_text_and_token_ids_are_the_same_prompt(daemon, cases):
    case = cases["base-2"]
    answer = generate(daemon, " ".join(f"w{i}" for i in case["prompt"]), max_tokens=case["max_tokens"], ignore_eos=True)
    assert answer.token_ids[0] == case["tokens"]
    assert answer.text[0].split() == [f"w{i}" for i in case["tokens"]]


def test_a_stop_string_ends_the_answer_and_is_not_in_it(daemon, cases):
    case = cases["base-1"]
    words = [f"w{i}" for i in case["tokens"]]
    third = f"{words[2]} {words[3]}"
    answer = generate(daemon, case["prompt"], max_tokens=case["max_tokens"], ignore_eos=True, stop=[third, "never"])
    assert answer.finish[0] == STOP
    assert answer.text[0].split() == words[:2]
    assert answer.usage[0].completion_tokens == len(answer.token_ids[0]) <= 5


def test_a_stop_token_ends_the_answer_and_is_only_in_the_ids(daemon, cases):
    case = cases["base-1"]
    stop = case["tokens"][3]
    first = case["tokens"].index(stop)
    answer = generate(daemon, case["prompt"], max_tokens=case["max_tokens"], ignore_eos=True, stop_token_ids=[stop])
    assert answer.finish[0] == STOP
    assert answer.token_ids[0] == case["tokens"][: first + 1]
    assert answer.text[0].split() == [f"w{i}" for i in case["tokens"][:first]]


def test_min_tokens_holds_off_stop_tokens(daemon, cases):
    case = cases["base-1"]
    stop = case["tokens"][0]
    answer = generate(daemon, case["prompt"], max_tokens=8, min_tokens=8, ignore_eos=True, stop_token_ids=[stop])
    assert len(answer.token_ids[0]) == 8
    assert stop not in answer.token_ids[0][:7]


def test_logit_bias_forbids_a_token(daemon, cases):
    case = cases["base-1"]
    bias = {case["tokens"][0]: -100.0}
    answer = generate(daemon, case["prompt"], max_tokens=1, logit_bias=bias, ignore_eos=True)
    assert answer.token_ids[0] == [case["top"][0][1][0]]


def test_a_seed_gives_the_same_draw_again_and_sequence_i_draws_with_seed_plus_i(daemon):
    sampling = dict(temperature=1.5, max_tokens=12, ignore_eos=True)
    several = generate(daemon, [5, 6, 7], n=4, seed=100, **sampling)
    again = generate(daemon, [5, 6, 7], n=4, seed=100, **sampling)
    alone = generate(daemon, [5, 6, 7], seed=102, **sampling)
    assert several.token_ids == again.token_ids
    assert several.token_ids[2] == alone.token_ids[0]
    assert len({tuple(ids) for ids in several.token_ids}) > 1


def test_without_a_seed_requests_differ(daemon):
    answers = {tuple(generate(daemon, [5], temperature=2.0, max_tokens=20, ignore_eos=True).token_ids[0]) for _ in range(4)}
    assert len(answers) > 1


def test_max_tokens_left_out_is_the_rest_of_the_context(daemon):
    answer = generate(daemon, [9] * 200, ignore_eos=True)
    assert answer.finish[0] == LENGTH
    assert answer.usage[0].completion_tokens == 256 - 200


def test_the_request_id_comes_back(daemon):
    call = daemon.inference.Generate(request([1], max_tokens=1))
    made = dict(call.initial_metadata())["lorad-request-id"]
    collect(call)
    named = request([1], max_tokens=1)
    named.request_id = "trace-7"
    call = daemon.inference.Generate(named)
    assert dict(call.initial_metadata())["lorad-request-id"] == "trace-7"
    collect(call)
    assert made and made != "trace-7"


REFUSED = [
    ("prompt: empty", grpc.StatusCode.INVALID_ARGUMENT, lambda r: r.ClearField("prompt")),
    ("token_ids: 101; limit: below 101", grpc.StatusCode.INVALID_ARGUMENT, lambda r: r.token_ids.ids.append(101)),
    ("temperature: -1", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r.sampling, "temperature", -1)),
    ("top_p: 2", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r.sampling, "top_p", 2)),
    ("max_tokens: 0", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r.sampling, "max_tokens", 0)),
    ("256", grpc.StatusCode.INVALID_ARGUMENT, lambda r: r.token_ids.ids.extend([1] * 300)),
    ("256", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r.sampling, "max_tokens", 5000)),
    ("logprobs: 21", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r, "logprobs", 21)),
    ("nobody", grpc.StatusCode.NOT_FOUND, lambda r: setattr(r, "adapter", "nobody")),
    ("q_v@2", grpc.StatusCode.NOT_FOUND, lambda r: setattr(r, "adapter", "q_v@2")),
    ("adapter revision: q_v@x", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r, "adapter", "q_v@x")),
    ("adapter revision: q_v@111", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r, "adapter", "q_v@" + "1" * 9000)),
    ("adapter name: aaa", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r, "adapter", "a" * 9000 + "@1")),
    ("repetition_penalty: 9", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r.sampling, "repetition_penalty", 1e-40)),
    ("text bytes: 4097; limit: 0 to 4096", grpc.StatusCode.INVALID_ARGUMENT, lambda r: setattr(r, "text", "w" * 4097)),
    ("adapters: 9; limit: 0 to 8", grpc.StatusCode.INVALID_ARGUMENT, lambda r: [r.adapters.add(name=f"a{i}") for i in range(9)]),
    ("q_v twice", grpc.StatusCode.INVALID_ARGUMENT, lambda r: [r.adapters.add(name="q_v") for _ in range(2)]),
    ("nobody", grpc.StatusCode.NOT_FOUND, lambda r: [r.adapters.add(name=name) for name in ("q_v", "nobody")]),
]


@pytest.mark.parametrize("text,code,change", REFUSED, ids=[text for text, _, _ in REFUSED])
def test_what_is_wrong_is_refused_with_its_name(daemon, text, code, change):
    made = request([1, 2, 3], max_tokens=2)
    change(made)
    error = refusal(lambda: daemon.inference.Generate(made))
    assert error.code() == code
    assert text in error.details()


def test_compositions_answer_as_peft_does_beside_others(daemon, golden):
    """All at once: several adapters on a request each, in one batch with single adapters and the base."""
    cases = json.loads((golden / "llama3/compositions.json").read_text())
    calls = []
    for case in cases:
        made = request(case["prompt"], max_tokens=case["max_tokens"], ignore_eos=True)
        made.logprobs = 0
        for adapter in case["adapters"]:
            made.adapters.add(name=adapter["name"], scale=adapter["scale"])
        calls.append(daemon.inference.Generate(made))
    beside = [daemon.inference.Generate(request([5, 6, 7], adapter=name, max_tokens=12)) for name in ("", "q_v", "dora")]
    for case, call in zip(cases, calls):
        messages = list(call)
        assert [i for m in messages for i in m.token_ids] == case["tokens"], case["name"]
        logprobs = [token.logprob for m in messages for token in m.logprobs]
        assert logprobs == pytest.approx(case["logprobs"], abs=5e-4), case["name"]
        names = [a["name"] + ("" if a["scale"] == 1 else f"*{a['scale']:g}") for a in case["adapters"]]
        assert messages[0].adapter == "+".join(names)
    for call in beside:
        collect(call)


def test_both_adapter_and_adapters_is_wrong(daemon):
    made = request([1], adapter="q_v", max_tokens=1)
    made.adapters.add(name="rslora")
    assert refusal(lambda: daemon.inference.Generate(made)).code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_full_queue_refuses_at_once_and_serves_again_after(start_daemon):
    daemon = start_daemon("--queue-limit=8", "--max-sequences=1")
    call = daemon.inference.Generate(request([1], n=8, max_tokens=250, ignore_eos=True))
    next(call)
    error = refusal(lambda: daemon.inference.Generate(request([1], n=8, max_tokens=2)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limit: 8" in error.details()
    assert daemon.metric("lorad_requests_refused_total", code="RESOURCE_EXHAUSTED") == 1
    call.cancel()
    wait_until(daemon.is_idle)
    assert generate(daemon, [1], max_tokens=2).usage[0].completion_tokens > 0
    assert daemon.stop() == 0


def test_what_cannot_make_its_first_token_in_time_is_told_so_at_once(start_daemon):
    daemon = start_daemon("--slo-first-token=0.000001")
    error = refusal(lambda: daemon.inference.Generate(request([1], max_tokens=2)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "--slo-first-token" in error.details()
    wait_until(lambda: daemon.metric("lorad_requests_late_total") == 1)
    assert daemon.metric("lorad_requests_refused_total", code="RESOURCE_EXHAUSTED") == 1


def test_more_answers_than_the_queue_ever_takes_are_wrong(start_daemon):
    daemon = start_daemon("--queue-limit=2")
    error = refusal(lambda: daemon.inference.Generate(request([1], n=8, max_tokens=2)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "n: 8" in error.details() and "--queue-limit" in error.details()
    assert daemon.stop() == 0


def test_cancelling_frees_everything(daemon):
    aborted = daemon.metric("vllm:request_success_total", finished_reason="abort")
    call = daemon.inference.Generate(request([3], n=32, max_tokens=250, ignore_eos=True))
    next(call)
    call.cancel()
    wait_until(lambda: daemon.metric("vllm:request_success_total", finished_reason="abort") > aborted)
    wait_until(lambda: daemon.is_idle() and daemon.metric("lorad_pool_pages", owner="kv") == 0)


def test_a_deadline_frees_everything(daemon):
    error = refusal(lambda: daemon.inference.Generate(request([3], n=64, max_tokens=250, ignore_eos=True), timeout=0.1))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: daemon.is_idle() and daemon.metric("lorad_pool_pages", owner="kv") == 0)


def test_a_client_that_does_not_read_is_given_up(daemon):
    """Its messages stay bounded in the daemon, and the others go on."""
    small_windows = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    from lorad.v1 import inference_pb2_grpc

    with grpc.insecure_channel(daemon.address, options=small_windows) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        call = stub.Generate(request([4], n=32, max_tokens=250, logprobs=20, ignore_eos=True))
        wait_until(lambda: any("slow_client" in line for line in daemon.log))
        wait_until(daemon.is_idle)
        answer = collect(call, n=32)
        assert inference_pb2.FINISH_REASON_ABORT in answer.finish
        assert "client reads too slowly" in next(detail for detail in answer.abort_detail if detail)
    assert generate(daemon, [1], max_tokens=2).finish[0] is not None


def test_log_probabilities_of_a_long_prompt_reach_a_client_that_reads(start_daemon, model, tmp_path):
    daemon = start_daemon(model_dir=longer(model, tmp_path / "longer", 4096))
    prompt = [3 + i % 90 for i in range(3000)]
    answer = generate(daemon, prompt, n=4, max_tokens=8, ignore_eos=True, logprobs=20, prompt_logprobs=20)
    assert answer.finish == [LENGTH] * 4
    for tokens in answer.prompt_logprobs:
        assert [token.token_id for token in tokens] == prompt
        assert all(len(token.top) == 20 for token in tokens[1:])
        assert sum(token.ByteSize() for token in tokens) > 256 << 10
    assert not any("slow_client" in line for line in daemon.log)
    assert daemon.stop() == 0


@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1e-30, 1e-6])
def test_tiny_options_are_served(daemon, cases, tiny):
    case = cases["base-1"]
    assert golden_case(daemon, case, temperature=tiny).token_ids[0] == case["tokens"]
    assert golden_case(daemon, case, temperature=1, top_p=tiny, min_p=tiny).token_ids[0] == case["tokens"]


@pytest.mark.parametrize("base", OTHER_BASES)
def test_other_bases_give_their_golden_tokens_without_a_tokenizer(start_daemon, golden, base):
    daemon = start_daemon(f"--adapter-dir={golden / base / 'adapters'}", "--dtype=float32", model_dir=golden / base / "model")
    for case in json.loads((golden / base / "cases.json").read_text()):
        if case.get("expect") != "later":
            assert golden_case(daemon, case).token_ids[0] == case["tokens"], case["name"]
    error = refusal(lambda: daemon.inference.Generate(request("some text")))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert daemon.stop() == 0


def test_tokenize_and_detokenize(daemon):
    ids = daemon.inference.Tokenize(inference_pb2.TokenizeRequest(text="w5 w17")).token_ids
    assert list(ids) == [5, 17]
    text = daemon.inference.Detokenize(inference_pb2.DetokenizeRequest(token_ids=[5, 2, 17])).text
    assert text == "w5 </s> w17"
    skipped = daemon.inference.Detokenize(inference_pb2.DetokenizeRequest(token_ids=[5, 2, 17], skip_special_tokens=True)).text
    assert skipped == "w5 w17"
    error = refusal(lambda: daemon.inference.Detokenize(inference_pb2.DetokenizeRequest(token_ids=[7000])))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    error = refusal(lambda: daemon.inference.Tokenize(inference_pb2.TokenizeRequest(text="w5", adapter="nobody")))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    for wrong in (dict(text="w5", adapter="a" * 9000), dict(text="w" * 4097)):
        error = refusal(lambda: daemon.inference.Tokenize(inference_pb2.TokenizeRequest(**wrong)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "limit" in error.details()


def test_model_info(daemon):
    info = daemon.inference.GetModelInfo(inference_pb2.GetModelInfoRequest())
    assert (info.name, info.architecture, info.dtype, info.device) == ("tiny-llama", "LlamaForCausalLM", "float32", Daemon.device or "cpu")
    assert (info.max_context_tokens, info.vocab_size, info.hidden_size, info.num_layers) == (256, 101, 64, 2)
    assert info.digest and info.weight_bytes > 0 and info.version
    assert 2 in info.eos_token_ids


def test_the_python_example_runs_as_it_is(daemon, cases):
    case = cases["base-2"]
    script = pathlib.Path(__file__).resolve().parents[2] / "clients/python/generate.py"
    stubs = pathlib.Path(inference_pb2.__file__).parents[2]
    command = [sys.executable, script, f"--server={daemon.address}", "--temperature=0", "--max-tokens=4",
               " ".join(f"w{i}" for i in case["prompt"])]
    said = subprocess.run(command, env={"PYTHONPATH": str(stubs)}, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert said.stdout.split() == [f"w{i}" for i in case["tokens"][:4]]
    command.insert(2, "--adapter=nobody")
    said = subprocess.run(command, env={"PYTHONPATH": str(stubs)}, capture_output=True, text=True, timeout=60)
    assert said.returncode == 1 and "NOT_FOUND" in said.stderr
