"""What can be trained and gone on from: each kind is served as it was trained."""

import json
import pathlib
import shutil

import grpc
import pytest
from lorad.v1 import adapters_pb2, finetuning_pb2
from support import Daemon, generate, refusal, write_alora
from tuning import Tuning, examples, losses, spec


# What is trained, on which golden base.
TRAINED = {
    "lora": ("llama3", {}),
    "dora_on_embedding": ("llama3", {"kind": "dora", "targets": ["q_proj", "embed_tokens"]}),
    "pissa_dora": ("llama3", {"kind": "dora", "init": "pissa", "targets": ["v_proj", "embed_tokens"]}),
    "saved_embedding_and_head": ("llama3", {"targets": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "saved_tied_embedding": ("qwen2", {"targets": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "saved_tied_embedding_and_head": ("qwen2", {"targets": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "saved_norms": ("qwen3", {"targets": ["o_proj"], "modules_to_save": ["norm"]}),
    "saved_sandwich_norms": ("gemma2", {"targets": ["o_proj"], "modules_to_save": ["norm"]}),
    "saved_layer_norms": ("opt", {"targets": ["k_proj"], "modules_to_save": ["layer_norm"]}),
    "saved_head_with_a_bias": ("phi", {"targets": ["q_proj"], "modules_to_save": ["lm_head", "layernorm"]}),
    "all_biases": ("opt", {"targets": ["fc1"], "bias": "all"}),
    "all_biases_behind_one_norm": ("phi", {"targets": ["q_proj"], "bias": "all"}),
    "tokens": ("llama3", {"targets": ["q_proj"], "trainable_token_ids": [7, 30, 12]}),
    "tokens_of_the_head": ("llama3", {"targets": ["q_proj"], "trainable_head_token_ids": [7, 30, 12]}),
    "routed_base": ("mixtral", {}),
    "routed_base_with_a_shared_expert": ("qwen2_moe", {}),
    "tokens_of_a_tied_head": ("qwen2", {"targets": ["q_proj"], "trainable_head_token_ids": [7, 30, 12]}),
    "tokens_of_both": ("qwen2", {"targets": ["q_proj"], "trainable_token_ids": [5, 7], "trainable_head_token_ids": [30, 12]}),
    "tokens_of_a_tied_base": ("gemma", {"targets": ["q_proj"], "trainable_token_ids": [7, 30, 12]}),
    "mixlora": ("llama3", {"kind": "mixlora", "router_aux_loss_coef": 1.0}),
    "mixlora_of_dora": ("llama3", {"kind": "mixlora", "num_experts": 3, "expert_lora": {"kind": "dora", "rank": 2}}),
    "mixlora_of_dora_with_biases": ("phi", {"kind": "mixlora", "num_experts": 3, "expert_lora": {"kind": "dora"}}),
    "mixlora_with_biases": ("opt", {"kind": "mixlora", "num_experts": 3}),
    "mixlora_of_fused_modules": ("phi3", {"kind": "mixlora", "num_experts": 3, "top_k": 1}),
    "mixlora_behind_other_norms": ("gemma2", {"kind": "mixlora", "targets": ["down_proj", "o_proj"]}),
    "mixlora_dynamic": ("llama3", {"kind": "mixlora_dynamic", "top_p": 0.4}),
    "mixlora_dynamic_with_biases": ("phi", {"kind": "mixlora_dynamic", "num_experts": 3, "top_p": 0.4}),
    "mixlora_switch": ("llama3", {"kind": "mixlora_switch", "jitter_noise": 0.0}),
    "loramoe": ("qwen2", {"kind": "loramoe", "num_experts": 3}),
    "mola": ("mistral", {"kind": "mola", "num_experts": 3, "router_aux_loss_coef": 1.0}),
}


@pytest.mark.parametrize("kind", TRAINED)
def test_the_loss_is_minus_the_mean_logprob_that_generate_gives(start_daemon, golden, tmp_path, kind):
    """One forward for both: the second step's loss is that of the adapter which a job of one step makes."""
    base, adapter = TRAINED[kind]
    daemon = start_daemon("--dtype=float32", f"--state-dir={tmp_path / 'state'}", model_dir=golden / base / "model")
    tuning = Tuning(daemon)
    ids = [5, 30, 7, 61, 12, 30, 30, 88, 5, 7, 44]
    made = spec("one", lines=[json.dumps({"input_ids": ids})], max_steps=1)
    made.adapter.MergeFrom(finetuning_pb2.AdapterSpec(**adapter))
    made.batch_size = made.micro_batch_size = 1
    made.optimizer.learning_rate = 0.02
    tuning.finish(tuning.submit(made).id)
    made.name, made.max_steps = "two", 2
    job, events = tuning.finish(tuning.submit(made).id)
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED and not job.reason, job.reason
    # A fresh adapter answers as the base, but where its routing weights do not add up to one.
    fresh = () if kind.startswith(("mixlora_dynamic", "mixlora_switch")) else ((1, ""),)
    for step, adapter in (*fresh, (2, "one")):
        answer = generate(daemon, ids, adapter=adapter, prompt_logprobs=0, max_tokens=1)
        scores = [p.logprob for p in answer.prompt_logprobs[0][1:]]
        tolerance = 1e-4 if "pissa" in kind else 1e-5  # its file holds a pair more, which is taken off again
        assert losses(events)[step] == pytest.approx(-sum(scores) / len(scores), rel=tolerance)


def test_packing_fills_sequences_and_learns_the_same(tuner):
    _, tuning = tuner()
    lines = examples(8)
    made = spec("packed", lines=lines, max_steps=3)
    made.dataset.shuffle = False
    made.batch_size, made.micro_batch_size = 8, 4
    made.optimizer.max_grad_norm = 0
    _, events = tuning.finish(tuning.submit(made).id)
    made.dataset.packing = True
    made.dataset.max_length_tokens = 256
    made.batch_size = made.micro_batch_size = 1
    _, packed = tuning.finish(tuning.submit(made).id)
    assert "packed into: 1" in packed[0].message
    for step, loss in losses(events).items():
        assert losses(packed)[step] == pytest.approx(loss, rel=1e-5)


GONE_ON_FROM = ["all_linear", "dora", "dora_embed_tokens", "rslora_patterns", "saved_embed_and_head", "saved_embed_few_rows",
                "saved_norms", "trainable_tokens", "trainable_tokens_of_both"]


def test_a_job_goes_on_from_an_adapter(tuner, golden, tmp_path):
    daemon, tuning = tuner()
    ids = json.loads(examples()[1])["input_ids"]
    made = spec("more", lines=[json.dumps({"input_ids": ids})], max_steps=2)
    made.ClearField("adapter")
    made.batch_size = made.micro_batch_size = 1
    for name in GONE_ON_FROM:
        daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name=name, path=str(golden / "llama3/adapters" / name)))
        scores = generate(daemon, ids, adapter=name, prompt_logprobs=0, max_tokens=1).prompt_logprobs[0][1:]
        made.init_adapter = name
        job, events = tuning.finish(tuning.submit(made).id)
        assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
        assert losses(events)[1] == pytest.approx(-sum(s.logprob for s in scores) / len(scores), rel=1e-5)
        assert daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name="more")).kind in ("lora", "dora")
    made.dataset.lines[0] = "no JSON"  # who cannot go on from an adapter hears of it before the data are read
    made.init_adapter = write_alora(golden / "llama3/adapters/all_linear", tmp_path / "alora", [5, 6])
    error = refusal(lambda: tuning.submit(made))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED and "has invocation tokens" in error.details(), error.details()
    made.dataset.lines[0] = json.dumps({"input_ids": ids})
    made.init_adapter = "nobody"
    assert refusal(lambda: tuning.submit(made)).code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("base, name", [("opt", "bias_all"), ("phi", "saved_layer_norms"), ("qwen2", "trainable_tokens")])
def test_a_job_goes_on_from_what_an_adapter_replaces(start_daemon, golden, tmp_path, base, name):
    flags = ("--dtype=float32", f"--state-dir={tmp_path / 'state'}", f"--adapter={name}={golden / base / 'adapters' / name}")
    daemon = start_daemon(*flags, model_dir=golden / base / "model")
    ids = [5, 30, 7, 61, 12, 17, 30, 88]
    made = spec("more", lines=[json.dumps({"input_ids": ids})], max_steps=1, init_adapter=name)
    made.ClearField("adapter")
    made.batch_size = made.micro_batch_size = 1
    scores = generate(daemon, ids, adapter=name, prompt_logprobs=0, max_tokens=1).prompt_logprobs[0][1:]
    job, events = Tuning(daemon).finish(Tuning(daemon).submit(made).id)
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED and not job.reason, job.reason
    assert losses(events)[1] == pytest.approx(-sum(s.logprob for s in scores) / len(scores), rel=1e-5)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_from_the_bases_own_weights_is_served_as_it_was_trained(tuner, init):
    """One step: what the next one's loss is, is what is served, though the file holds a pair more."""
    daemon, tuning = tuner()
    ids = json.loads(examples()[1])["input_ids"]
    made = spec("one", lines=[json.dumps({"input_ids": ids})], max_steps=1)
    made.batch_size = made.micro_batch_size = 1
    made.adapter.init = init
    tuning.finish(tuning.submit(made).id)
    made.name, made.max_steps = "two", 2
    _, events = tuning.finish(tuning.submit(made).id)
    scores = generate(daemon, ids, adapter="one", prompt_logprobs=0, max_tokens=1).prompt_logprobs[0][1:]
    assert losses(events)[2] == pytest.approx(-sum(s.logprob for s in scores) / len(scores), rel=1e-4)


def saved_tensor(folder, name):
    """The numbers of an f32 tensor of an adapter, by row."""
    raw = (folder / "adapter_model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])[name]
    begin, end = (8 + int.from_bytes(raw[:8], "little") + offset for offset in header["data_offsets"])
    width = (end - begin) // header["shape"][0]
    return [raw[begin + row * width : begin + (row + 1) * width] for row in range(header["shape"][0])]


def test_the_paddings_row_of_a_trained_embedding_stays_as_it_is(start_daemon, model, tmp_path):
    base = tmp_path / "model"
    shutil.copytree(model, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"pad_token_id": 7}))
    daemon = start_daemon(f"--state-dir={tmp_path / 'state'}", model_dir=base)
    made = spec("padded", lines=[json.dumps({"input_ids": [5, 7, 9, 7, 11, 7]})], max_steps=3)
    made.adapter.targets.append("q_proj")
    made.adapter.trainable_token_ids.extend([5, 7, 9])
    tuning = Tuning(daemon)
    job, _ = tuning.finish(tuning.submit(made).id)
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
    rows = saved_tensor(tmp_path / "state/revisions" / job.revision, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta")
    made.max_steps, made.optimizer.learning_rate = 1, 0.0
    job, _ = tuning.finish(tuning.submit(made).id)
    of_base = saved_tensor(tmp_path / "state/revisions" / job.revision, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta")
    assert [ours == theirs for ours, theirs in zip(rows, of_base, strict=True)] == [False, True, False]


# Of kinds with routers, the experts of a row may change where two are as good; over many rows that does not matter.
BFLOAT16 = {
    "lora": {}, "mixlora": {"num_experts": 4}, "mixlora_dynamic": {"num_experts": 4, "top_p": 0.5},
    "mixlora_switch": {"num_experts": 4, "jitter_noise": 0.0, "expert_capacity": 1000}, "loramoe": {"num_experts": 3},
    "mola": {"num_experts": 4},
}


@pytest.mark.parametrize("kind", BFLOAT16)
def test_in_bfloat16_the_loss_is_what_generate_gives_within_its_rounding(build_dir, tmp_path, kind):
    """Over some sequences: of one short one, roundings of logits leave up to 2e-3."""
    base = pathlib.Path(__file__).parents[2] / "examples/demo-base"
    lines = [json.loads(line) for line in (base.parent / "poet.jsonl").read_text().splitlines()[:16]]
    made = spec("one", lines=[json.dumps({"text": line["prompt"] + line["completion"]}) for line in lines], max_steps=1)
    made.adapter.MergeFrom(finetuning_pb2.AdapterSpec(kind=kind, **BFLOAT16[kind]))
    made.batch_size, made.micro_batch_size, made.optimizer.learning_rate = 16, 4, 0.002
    fresh_is_base = kind not in ("mixlora_dynamic", "mixlora_switch")  # their weights do not add up to one
    with Daemon(build_dir, base, "--dtype=bfloat16", f"--state-dir={tmp_path / 'state'}") as daemon:
        tuning = Tuning(daemon)
        preview = lambda line: tuning.stub.PreviewExample(finetuning_pb2.PreviewExampleRequest(dataset=made.dataset, line=line))
        sequences = [list(preview(line).token_ids) for line in range(1, 17)]
        tuning.finish(tuning.submit(made).id)
        made.name, made.max_steps = "two", 2
        _, events = tuning.finish(tuning.submit(made).id)
        for step, adapter in (((1, ""),) if fresh_is_base else ()) + ((2, "one"),):
            scores = []
            for ids in sequences:
                answer = generate(daemon, ids, adapter=adapter, prompt_logprobs=0, max_tokens=1)
                scores += [score.logprob for score in answer.prompt_logprobs[0][1:]]
            assert losses(events)[step] == pytest.approx(-sum(scores) / len(scores), rel=1e-3)


def test_an_adapter_with_routers_learns_and_is_written_in_moe_pefts_format(tuner, tmp_path):
    daemon, tuning = tuner()
    made = spec("routed", max_steps=40)
    made.optimizer.learning_rate = 0.005
    made.adapter.MergeFrom(finetuning_pb2.AdapterSpec(
        kind="mixlora", num_experts=4, router_aux_loss_coef=0.02, expert_lora=finetuning_pb2.AdapterSpec(rank=2, alpha=6)))
    other = spec("plain", max_steps=40)
    jobs = [tuning.submit(made).id, tuning.submit(other).id]  # side by side
    (job, events), (plain, _) = [tuning.finish(job_id) for job_id in jobs]
    assert job.state == plain.state == finetuning_pb2.JOB_STATE_SUCCEEDED, (job.reason, plain.reason)
    by_step = losses(events)
    assert sum(by_step[s] for s in range(36, 41)) < 0.8 * sum(by_step[s] for s in range(1, 6))
    aux = [event.aux_loss for event in events if event.HasField("aux_loss")]
    assert len(aux) == 40 and all(0.03 < value < 0.1 for value in aux)  # even: coefficient x 2
    folder = tmp_path / "state/revisions" / job.revision
    assert {file.name for file in folder.iterdir()} == {"adapter_model.bin", "adapter_config.json", "provenance.json"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["routing_strategy"], config["num_experts"], config["top_k"]) == ("mixlora", 4, 2)
    assert (config["r"], config["lora_alpha"], config["expert_lora"]["r"]) == (4, 8, 2)
    assert config["router_aux_loss_coef"] == 0.02
    told = json.loads((folder / "provenance.json").read_text())
    assert told["lorad.step"] == "40" and len(told["lorad.data_digest"]) == 64

    ids = json.loads(examples()[1])["input_ids"]
    more = spec("more", lines=[json.dumps({"input_ids": ids})], max_steps=1, init_adapter="routed")
    more.ClearField("adapter")
    more.adapter.router_aux_loss_coef = 0.5
    more.batch_size = more.micro_batch_size = 1
    _, events = tuning.finish(tuning.submit(more).id)
    scores = generate(daemon, ids, adapter="routed", prompt_logprobs=0, max_tokens=1).prompt_logprobs[0][1:]
    assert losses(events)[1] == pytest.approx(-sum(s.logprob for s in scores) / len(scores), rel=1e-5)
