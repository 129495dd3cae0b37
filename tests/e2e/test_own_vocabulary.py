"""An adapter with tokens of its own and its own tokenizer in its folder, beside a base that knows neither."""

import json
import shutil
import time

import grpc
import pytest
from lorad.v1 import adapters_pb2, inference_pb2
from support import WAIT_SECONDS, collect, generate, refusal, request, wait_until, word_tokenizer

BASE_WORDS = [f"w{i}" for i in range(96)]
OWN_WORDS = BASE_WORDS + [f"new{i}" for i in range(7)]
NAMES = [word if i != 2 else "</s>" for i, word in enumerate(OWN_WORDS)]


@pytest.fixture
def base(golden, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(golden / "llama2/model", folder)
    (folder / "tokenizer.json").write_text(word_tokenizer(BASE_WORDS))
    return folder


@pytest.fixture
def adapters(golden, tmp_path):
    """A folder of adapters: one with its own tokenizer, one with a copy of the base's."""
    folder = tmp_path / "adapters"
    shutil.copytree(golden / "llama2/adapters/own_tokens", folder / "own")
    (folder / "own/tokenizer.json").write_text(word_tokenizer(OWN_WORDS))
    shutil.copytree(golden / "llama2/adapters/q_v", folder / "plain")
    (folder / "plain/tokenizer.json").write_text(word_tokenizer(BASE_WORDS))
    return folder


@pytest.fixture
def case(golden):
    cases = json.loads((golden / "llama2/cases.json").read_text())
    return max((c for c in cases if c["adapter"] == "own_tokens"), key=lambda c: len(c["prompt"]))


def load(daemon, name, path):
    return daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name=name, path=str(path)))


def text_of(ids):
    return " ".join(NAMES[i] for i in ids)


def ask(daemon, prompt, adapter, max_tokens):
    return generate(daemon, prompt, adapter=adapter, max_tokens=max_tokens, ignore_eos=True)


def test_its_text_is_encoded_and_decoded_by_its_own_tokenizer(start_daemon, base, adapters, case):
    daemon = start_daemon(model_dir=base)
    load(daemon, "own", adapters / "own")
    assert max(case["prompt"]) >= 96 and max(case["tokens"]) >= 96
    answer = ask(daemon, text_of(case["prompt"]), "own", case["max_tokens"])
    assert answer.token_ids[0] == case["tokens"]
    assert answer.text[0].split() == [NAMES[i] for i in case["tokens"] if i != 2]
    by_ids = ask(daemon, case["prompt"], "own", case["max_tokens"])
    assert by_ids.token_ids[0] == case["tokens"] and by_ids.text[0] == answer.text[0]

    ids = daemon.inference.Tokenize(inference_pb2.TokenizeRequest(text="w5 new3", adapter="own")).token_ids
    assert list(ids) == [5, 99]
    assert daemon.inference.Detokenize(inference_pb2.DetokenizeRequest(token_ids=[5, 99], adapter="own")).text == "w5 new3"
    assert list(daemon.inference.Tokenize(inference_pb2.TokenizeRequest(text="w5 new3")).token_ids) == [5, 0]
    assert daemon.stop() == 0


def test_nobody_else_has_its_tokens(start_daemon, base, adapters):
    daemon = start_daemon(model_dir=base)
    load(daemon, "own", adapters / "own")
    load(daemon, "plain", adapters / "plain")
    for adapter in ("", "plain"):
        error = refusal(lambda: daemon.inference.Generate(request([96], adapter=adapter, max_tokens=1)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "limit: below 96" in error.details()
    error = refusal(lambda: daemon.inference.Generate(request([103], adapter="own", max_tokens=1)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "limit: below 103" in error.details()
    assert daemon.stop() == 0


@pytest.mark.parametrize("by", ["text", "ids"])
def test_the_first_request_of_all_is_answered(start_daemon, base, adapters, case, by):
    daemon = start_daemon(f"--adapter-dir={adapters}", model_dir=base)
    prompt = text_of(case["prompt"]) if by == "text" else case["prompt"]
    answer = generate(daemon, prompt, adapter="own", max_tokens=case["max_tokens"], ignore_eos=True, n=2)
    for i in range(2):
        assert answer.token_ids[i] == case["tokens"]
        assert answer.text[i].split() == [NAMES[token] for token in case["tokens"] if token != 2]
        assert answer.usage[i].prompt_tokens == len(case["prompt"])
    assert len(ask(daemon, "w5 w6", "plain", 3).token_ids[0]) == 3  # a copy of the base's is the base's
    assert daemon.stop() == 0


def test_many_first_requests_at_once_and_their_stop_strings(start_daemon, base, adapters, case):
    daemon = start_daemon(f"--adapter-dir={adapters}", model_dir=base)
    cut = next(i for i, token in enumerate(case["tokens"]) if token >= 96)
    made = request(text_of(case["prompt"]), adapter="own", max_tokens=case["max_tokens"], ignore_eos=True)
    made.sampling.stop.append(NAMES[case["tokens"][cut]])
    plain = request("w5 w6", max_tokens=8, ignore_eos=True)
    calls = [daemon.inference.Generate(made if i % 2 else plain, timeout=WAIT_SECONDS) for i in range(12)]
    answers = [collect(call) for call in calls]
    for i, answer in enumerate(answers):
        if i % 2:
            assert answer.text[0].split() == [NAMES[token] for token in case["tokens"][:cut] if token != 2]
            assert answer.finish[0] == inference_pb2.FINISH_REASON_STOP
        else:
            assert answer.token_ids[0] == answers[0].token_ids[0] and len(answer.token_ids[0]) == 8
    assert daemon.stop() == 0


def test_first_requests_that_are_cancelled_leave_nothing(start_daemon, base, adapters, case):
    names = [f"own{i}" for i in range(24)]
    for name in names:
        shutil.copytree(adapters / "own", adapters / name)
    daemon = start_daemon(f"--adapter-dir={adapters}", model_dir=base)
    text = text_of(case["prompt"])
    calls = [daemon.inference.Generate(request(text, adapter=name, max_tokens=12, n=2), timeout=WAIT_SECONDS) for name in names]
    for i, call in enumerate(calls):
        time.sleep(0.002 * (i % 3))  # some before their tokenizer is read, some after
        call.cancel()
    wait_until(daemon.is_idle)
    for name in names[::5]:
        assert ask(daemon, text, name, case["max_tokens"]).token_ids[0] == case["tokens"]
    assert daemon.stop() == 0


def test_what_is_wrong_with_a_first_request_is_told(start_daemon, base, adapters):
    daemon = start_daemon(f"--adapter-dir={adapters}", model_dir=base)
    long = " ".join(["w5"] * 300)
    error = refusal(lambda: ask(daemon, long, "own", 3))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "context" in error.details()
    error = refusal(lambda: ask(daemon, "w5", "nobody", 3))
    assert error.code() == grpc.StatusCode.NOT_FOUND and "nobody" in error.details()
    (adapters / "broken").mkdir()
    for file in (adapters / "plain").iterdir():
        shutil.copy(file, adapters / "broken")
    (adapters / "broken/tokenizer.json").write_text("{")
    error = refusal(lambda: ask(daemon, "w5", "broken", 3))
    assert error.code() == grpc.StatusCode.DATA_LOSS and "tokenizer.json" in error.details()
    assert len(ask(daemon, "w5", "own", 3).token_ids[0]) == 3
    wait_until(daemon.is_idle)
    assert daemon.stop() == 0


def test_the_first_classification_of_all_is_answered(start_daemon, golden, tmp_path):
    cases = json.loads((golden / "llama3/classifiers.json").read_text())
    case = next(case for case in cases if case["adapter"] == "q_v" and len(case["prompt"]) == 9)
    folder = shutil.copytree(golden / "llama3/classifiers/q_v", tmp_path / "adapters/q_v")
    words = [f"v{i}" for i in range(max(case["prompt"]) + 1)]  # which the base's tokenizer does not know
    (folder / "tokenizer.json").write_text(word_tokenizer(words))
    daemon = start_daemon(f"--adapter-dir={tmp_path / 'adapters'}")
    asked = inference_pb2.ClassifyRequest(adapter="q_v", text=" ".join(words[i] for i in case["prompt"]))
    answer = daemon.inference.Classify(asked, timeout=WAIT_SECONDS)
    assert list(answer.logits) == pytest.approx(case["logits"], abs=5e-4)
    assert daemon.stop() == 0


def test_a_tokenizer_that_cannot_be_read_is_refused_with_its_adapter(start_daemon, base, adapters):
    daemon = start_daemon(model_dir=base)
    (adapters / "own/tokenizer.json").write_text("{")
    error = refusal(lambda: load(daemon, "own", adapters / "own"))
    assert error.code() == grpc.StatusCode.DATA_LOSS and "tokenizer.json" in error.details()
    assert daemon.stop() == 0
