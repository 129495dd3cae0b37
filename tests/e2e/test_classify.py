"""Adapters with a classifier head, through the daemon."""

import json

import grpc
import pytest
from lorad.v1 import adapters_pb2, inference_pb2
from support import WAIT_SECONDS, refusal, request, write_alora


@pytest.fixture(scope="module")
def classifier_cases(golden):
    return json.loads((golden / "llama3/classifiers.json").read_text())


@pytest.fixture(scope="module")
def classifying(daemon, golden, classifier_cases):
    for name in sorted({case["adapter"] for case in classifier_cases}):
        path = str(golden / "llama3/classifiers" / name)
        daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name=f"class/{name}", path=path))
    return daemon


def classify(daemon, adapter, ids=None, text=None):
    made = inference_pb2.ClassifyRequest(adapter=adapter)
    if text is not None:
        made.text = text
    elif ids is not None:
        made.token_ids.ids.extend(ids)
    return daemon.inference.Classify(made, timeout=WAIT_SECONDS)


def test_logits_are_those_of_peft(classifying, classifier_cases):
    for case in classifier_cases:
        answer = classify(classifying, f"class/{case['adapter']}", case["prompt"])
        assert list(answer.logits) == pytest.approx(case["logits"], abs=5e-4), case["name"]
        assert list(answer.labels) == [f"LABEL_{i}" for i in range(len(case["logits"]))]


def test_a_text_is_tokenised(classifying, classifier_cases):
    case = next(case for case in classifier_cases if len(case["prompt"]) == 9)
    answer = classify(classifying, f"class/{case['adapter']}", text=" ".join(f"w{i}" for i in case["prompt"]))
    assert list(answer.logits) == pytest.approx(case["logits"], abs=5e-4)


def test_what_does_not_fit_is_refused_with_its_name(classifying):
    def code_and_text(call):
        error = refusal(call)
        return error.code(), error.details()

    wrong = grpc.StatusCode.INVALID_ARGUMENT
    assert code_and_text(lambda: classify(classifying, "", [5]))[0] == wrong
    assert code_and_text(lambda: classify(classifying, "class/q_v", []))[0] == wrong
    assert code_and_text(lambda: classify(classifying, "class/q_v", [101]))[0] == wrong
    assert code_and_text(lambda: classify(classifying, "class/q_v", [5] * 300))[0] == wrong
    assert code_and_text(lambda: classify(classifying, "nobody", [5]))[0] == grpc.StatusCode.NOT_FOUND
    code, text = code_and_text(lambda: classify(classifying, "q_v", [5]))
    assert code == wrong and "use Generate" in text
    code, text = code_and_text(lambda: classifying.inference.Generate(request([5], adapter="class/q_v", max_tokens=1)))
    assert code == wrong and "use Classify" in text


def test_an_alora_classifies_nothing(classifying, golden, tmp_path):
    path = write_alora(golden / "llama3/adapters/q_v", tmp_path / "alora", [5, 6])
    loaded = classifying.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="alora", path=path))
    assert loaded.kind == "alora"
    error = refusal(lambda: classify(classifying, "alora", [5, 6, 7]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "use Generate" in error.details()
    path = write_alora(golden / "llama3/classifiers/q_v", tmp_path / "both", [5, 6])
    error = refusal(lambda: classifying.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="both", path=path)))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED and "alora_invocation_tokens" in error.details()


def test_adapterctl_classifies(classifying, classifier_cases):
    case = classifier_cases[0]
    ids = ",".join(map(str, case["prompt"]))
    done = classifying.ctl("--output=json", "classify", f"--adapter=class/{case['adapter']}", f"--token-ids={ids}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["logits"] == pytest.approx(case["logits"], abs=5e-4)
    assert "LABEL_0" in classifying.ctl("classify", f"--adapter=class/{case['adapter']}", f"--token-ids={ids}").stdout
    assert classifying.ctl("classify", "--adapter=q_v", "--token-ids=5").returncode == 1
