"""A quantised base: what it answers, says of itself, trains and merges."""

import json

import pytest
from lorad.v1 import adapters_pb2, inference_pb2
from support import WAIT_SECONDS, generate

TOLERANCE = 5e-4


def model_info(daemon):
    return daemon.inference.GetModelInfo(inference_pb2.GetModelInfoRequest())


@pytest.mark.parametrize("quantize", ["int8", "int4", "fp8"])
def test_a_quantised_base_answers_as_transformers_does_with_its_rounded_weights(start_daemon, daemon, golden, quantize):
    quantised = start_daemon(f"--quantize={quantize}", f"--adapter-dir={golden / 'llama3/adapters'}")
    whole, info = model_info(daemon), model_info(quantised)
    assert (whole.quantization, info.quantization) == ("", quantize)
    assert info.dtype == whole.dtype and info.weight_bytes < whole.weight_bytes and info.digest != whole.digest
    assert f"quantization  {quantize}" in quantised.ctl("info").stdout
    for case in json.loads((golden / f"llama3/cases_{quantize}.json").read_text()):
        answer = generate(quantised, case["prompt"], adapter=case["adapter"], max_tokens=case["max_tokens"],
                          ignore_eos=True, logprobs=1)
        assert answer.token_ids[0] == case["tokens"], case["name"]
        assert [entry.logprob for entry in answer.logprobs[0]] == pytest.approx(case["logprobs"], abs=TOLERANCE)
    assert quantised.stop() == 0


def test_merging_takes_the_checkpoints_own_weights(start_daemon, golden, cases, tmp_path):
    """What is written has the base's precision, and answers as the adapter does without --quantize."""
    case = next(case for case in cases.values() if case["adapter"] == "dora")
    quantised = start_daemon("--quantize=int4")
    quantised.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="a", path=str(golden / "llama3/adapters/dora")))
    list(quantised.adapters.MergeAdapter(adapters_pb2.MergeAdapterRequest(name="a", output_path=str(tmp_path / "merged")),
                                         timeout=WAIT_SECONDS))
    assert quantised.stop() == 0
    merged = start_daemon(model_dir=tmp_path / "merged")
    assert generate(merged, case["prompt"], max_tokens=case["max_tokens"], ignore_eos=True).token_ids[0] == case["tokens"]
