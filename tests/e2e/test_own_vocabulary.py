"""An adapter with tokens of its own and its own tokenizer in its folder, beside a base that knows neither."""

import json
import shutil

import grpc
import pytest
from lorad.v1 import adapters_pb2, inference_pb2
from support import generate, refusal, request, word_tokenizer

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


def test_before_anybody_has_read_it_a_request_is_to_be_sent_again(start_daemon, base, adapters, case):
    daemon = start_daemon(f"--adapter-dir={adapters}", model_dir=base)
    text = text_of(case["prompt"])
    error = refusal(lambda: ask(daemon, text, "own", case["max_tokens"]))
    assert error.code() == grpc.StatusCode.UNAVAILABLE and "send it again" in error.details()
    assert ask(daemon, text, "own", case["max_tokens"]).token_ids[0] == case["tokens"]
    assert len(ask(daemon, "w5 w6", "plain", 3).token_ids[0]) == 3  # a copy of the base's is the base's
    assert daemon.stop() == 0


def test_a_tokenizer_that_cannot_be_read_is_refused_with_its_adapter(start_daemon, base, adapters):
    daemon = start_daemon(model_dir=base)
    (adapters / "own/tokenizer.json").write_text("{")
    error = refusal(lambda: load(daemon, "own", adapters / "own"))
    assert error.code() == grpc.StatusCode.DATA_LOSS and "tokenizer.json" in error.details()
    assert daemon.stop() == 0
