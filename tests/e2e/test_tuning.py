"""Fine-tuning in the daemon: from a submitted job to an adapter that is served, through kills and refusals."""

import json
import pathlib
import random
import shutil
import subprocess
import threading
import time

import grpc
import pytest
from lorad.v1 import adapters_pb2, finetuning_pb2, finetuning_pb2_grpc
from support import Daemon, generate, refusal, wait_until, write_alora

FINISHED = (finetuning_pb2.JOB_STATE_SUCCEEDED, finetuning_pb2.JOB_STATE_FAILED, finetuning_pb2.JOB_STATE_CANCELLED)
WAIT_SECONDS = 240


def examples(count=24, seed=3):
    """Lines of format `tokens` whose second half is the first one backwards."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        ids = [draw.randrange(3, 101) for _ in range(draw.randrange(2, 12))]
        lines.append(json.dumps({"input_ids": ids + ids[::-1], "labels": [-100] * len(ids) + ids[::-1]}))
    return lines


def spec(name="tuned", lines=None, **fields):
    made = finetuning_pb2.FineTuneSpec(name=name, seed=5, batch_size=4, micro_batch_size=2, **fields)
    made.dataset.lines.extend(examples() if lines is None else lines)
    made.adapter.rank = 4
    return made


class Tuning:
    def __init__(self, daemon):
        self.stub = finetuning_pb2_grpc.FineTuningStub(daemon.channel)

    def submit(self, made, key=""):
        return self.stub.SubmitJob(finetuning_pb2.SubmitJobRequest(spec=made, idempotency_key=key), timeout=60)

    def get(self, job_id):
        return self.stub.GetJob(finetuning_pb2.GetJobRequest(id=job_id), timeout=60)

    def watch(self, job_id, after=0):
        return self.stub.WatchJob(finetuning_pb2.WatchJobRequest(id=job_id, after_sequence=after), timeout=WAIT_SECONDS)

    def finish(self, job_id):
        """The job at its end, and its events."""
        events = list(self.watch(job_id))
        return self.get(job_id), events


def losses(events):
    """By step; a step that was done again after a restart counts as it came out last."""
    return {event.step: event.loss for event in events if event.HasField("loss")}


@pytest.fixture
def tuner(start_daemon, tmp_path):
    def start(state="state", *flags):
        daemon = start_daemon(f"--state-dir={tmp_path / state}", *flags)
        return daemon, Tuning(daemon)

    return start


def test_a_job_learns_and_its_adapter_is_served_without_a_restart(tuner):
    daemon, tuning = tuner()
    made = spec(max_steps=30)
    made.optimizer.learning_rate = 0.01
    job = tuning.submit(made)
    assert job.total_steps == 30 and job.state in (finetuning_pb2.JOB_STATE_QUEUED, finetuning_pb2.JOB_STATE_RUNNING)
    job, events = tuning.finish(job.id)
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    by_step = losses(events)
    assert sorted(by_step) == list(range(1, 31))
    assert sum(by_step[s] for s in range(26, 31)) < 0.8 * sum(by_step[s] for s in range(1, 6))
    assert "examples: 24" in events[0].message and "steps: 30" in events[0].message
    assert job.revision.startswith("tuned@") and job.trained_tokens > 0

    prompt = json.loads(examples()[0])["input_ids"]
    base = generate(daemon, prompt, prompt_logprobs=0, max_tokens=4)
    tuned = generate(daemon, prompt, adapter="tuned", prompt_logprobs=0, max_tokens=4)
    score = lambda answer: sum(p.logprob for p in answer.prompt_logprobs[0][len(prompt) // 2 :])
    assert score(tuned) > score(base) + 0.5
    listed = daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name="tuned"))
    assert (listed.kind, listed.rank_max) == ("lora", 4)


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


@pytest.mark.parametrize("kills", [1, 4])
def test_a_killed_daemon_goes_on_with_the_same_losses(start_daemon, tmp_path, kills):
    made = spec(max_steps=60, checkpoint_every_steps=3)
    made.adapter.dropout = 0.1
    made.optimizer.learning_rate = 0.005
    daemon = start_daemon(f"--state-dir={tmp_path / 'calm'}")
    tuning = Tuning(daemon)
    calm, events = tuning.finish(tuning.submit(made).id)
    assert calm.state == finetuning_pb2.JOB_STATE_SUCCEEDED, calm.reason
    expected = losses(events)

    draw = random.Random(kills)
    daemon = start_daemon(f"--state-dir={tmp_path / 'killed'}")
    job_id = Tuning(daemon).submit(made).id
    for _ in range(kills):
        time.sleep(draw.uniform(0.05, 0.6))
        daemon.kill()
        daemon = start_daemon(f"--state-dir={tmp_path / 'killed'}")
    job, events = Tuning(daemon).finish(job_id)
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
    assert losses(events) == expected  # to the bit
    assert job.trained_tokens == calm.trained_tokens
    assert generate(daemon, [5, 6, 7], adapter="tuned", max_tokens=4).token_ids[0]


def test_an_orderly_restart_serves_what_was_trained_and_goes_on(start_daemon, tmp_path):
    flag = f"--state-dir={tmp_path / 'state'}"
    daemon = start_daemon(flag)
    tuning = Tuning(daemon)
    first, _ = tuning.finish(tuning.submit(spec("done", max_steps=2)).id)
    second = tuning.submit(spec("rest", max_steps=200))
    assert daemon.stop() == 0
    daemon = start_daemon(flag)
    assert generate(daemon, [5, 6, 7], adapter="done", max_tokens=2).token_ids[0]
    job, events = Tuning(daemon).finish(second.id)
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
    assert sorted(losses(events)) == list(range(1, 201))
    assert Tuning(daemon).get(first.id).revision == first.revision


def test_a_damaged_checkpoint_is_seen_and_the_one_before_it_used(start_daemon, tmp_path):
    flag = f"--state-dir={tmp_path / 'state'}"
    daemon = start_daemon(flag)
    tuning = Tuning(daemon)
    job = tuning.submit(spec(max_steps=400, checkpoint_every_steps=2))
    wait_until(lambda: tuning.get(job.id).step >= 8)
    paused = tuning.stub.PauseJob(finetuning_pb2.PauseJobRequest(id=job.id))
    assert paused.state == finetuning_pb2.JOB_STATE_PAUSED
    daemon.kill()
    folder = tmp_path / "state/jobs" / job.id / "checkpoints"
    steps = sorted(int(entry.name.split("-")[1]) for entry in folder.iterdir())
    assert len(steps) == 2 and steps[-1] == paused.step
    state = folder / f"step-{steps[-1]}/state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x55")
    tuning = Tuning(start_daemon(flag))
    tuning.stub.ResumeJob(finetuning_pb2.ResumeJobRequest(id=job.id))
    messages = []
    for event in tuning.watch(job.id):
        messages.append(event.message)
        if "goes on from" in event.message:
            break
    assert any(f"checkpoint of step {steps[-1]} is not used" in message for message in messages)
    assert messages[-1] == f"goes on from the checkpoint of step {steps[0]}"
    tuning.stub.CancelJob(finetuning_pb2.CancelJobRequest(id=job.id))


def test_a_disk_that_takes_no_more_fails_the_job_and_nothing_else(tuner):
    """A limit on the size of files stands for the full disk: writing fails in the same places."""
    daemon, tuning = tuner()
    kept, _ = tuning.finish(tuning.submit(spec("kept", max_steps=2)).id)
    limit = lambda size: subprocess.run(["prlimit", f"--pid={daemon.process.pid}", f"--fsize={size}:"], check=True)
    limit(5 << 20)  # more than the store needs, less than the states below
    large = spec("large", max_steps=3, checkpoint_every_steps=1)
    large.adapter.rank = 512
    failed, _ = tuning.finish(tuning.submit(large).id)
    assert failed.state == finetuning_pb2.JOB_STATE_FAILED and "state.safetensors" in failed.reason
    assert "File too large" in failed.reason
    assert generate(daemon, [5, 6, 7], adapter="kept", max_tokens=2).token_ids[0]
    small, _ = tuning.finish(tuning.submit(spec("small", max_steps=2)).id)
    assert small.state == finetuning_pb2.JOB_STATE_SUCCEEDED
    limit("unlimited")
    again, _ = tuning.finish(tuning.submit(large).id)
    assert again.state == finetuning_pb2.JOB_STATE_SUCCEEDED, again.reason


def test_pause_resume_cancel_and_delete(tuner):
    _, tuning = tuner("state", "--tuning-jobs=1")
    job = tuning.submit(spec(max_steps=5000))
    waiting = tuning.submit(spec("waiting", max_steps=5))
    urgent = tuning.submit(spec("urgent", max_steps=5, priority=3))
    wait_until(lambda: tuning.get(job.id).step >= 2)
    paused = tuning.stub.PauseJob(finetuning_pb2.PauseJobRequest(id=job.id))
    assert paused.state == finetuning_pb2.JOB_STATE_PAUSED
    done = tuning.finish(waiting.id)[0]
    assert done.state == finetuning_pb2.JOB_STATE_SUCCEEDED
    first = tuning.get(urgent.id)
    assert first.state == finetuning_pb2.JOB_STATE_SUCCEEDED
    assert first.finished_at.ToNanoseconds() < done.finished_at.ToNanoseconds()
    refused = refusal(lambda: tuning.stub.DeleteJob(finetuning_pb2.DeleteJobRequest(id=job.id)))
    assert refused.code() == grpc.StatusCode.FAILED_PRECONDITION and "paused" in refused.details()
    assert tuning.stub.ResumeJob(finetuning_pb2.ResumeJobRequest(id=job.id)).state == finetuning_pb2.JOB_STATE_QUEUED
    wait_until(lambda: tuning.get(job.id).step > paused.step)
    cancelled = tuning.stub.CancelJob(finetuning_pb2.CancelJobRequest(id=job.id))
    assert cancelled.state == finetuning_pb2.JOB_STATE_CANCELLED
    refused = refusal(lambda: tuning.stub.ResumeJob(finetuning_pb2.ResumeJobRequest(id=job.id)))
    assert refused.code() == grpc.StatusCode.FAILED_PRECONDITION
    tuning.stub.DeleteJob(finetuning_pb2.DeleteJobRequest(id=job.id))
    assert refusal(lambda: tuning.get(job.id)).code() == grpc.StatusCode.NOT_FOUND
    listed = tuning.stub.ListJobs(finetuning_pb2.ListJobsRequest(page_size=1))
    assert [j.id for j in listed.jobs] == [urgent.id] and listed.next_page_token
    rest = tuning.stub.ListJobs(finetuning_pb2.ListJobsRequest(page_token=listed.next_page_token))
    assert [j.id for j in rest.jobs] == [waiting.id] and not rest.next_page_token


def test_jobs_that_train_together_have_the_losses_of_each_alone(tuner):
    daemon, tuning = tuner()
    made = []
    for i, kind in enumerate(["lora", "dora", "lora"]):
        one = spec(f"together-{i}", lines=examples(seed=i), max_steps=30 + 5 * i)
        one.adapter.kind, one.adapter.rank, one.seed = kind, 2 + 3 * i, i
        one.batch_size, one.micro_batch_size = 2 * (i + 1), i + 1
        one.optimizer.learning_rate = 1e-3  # at the default rate rounding grows faster than a loss falls
        made.append(one)
    ids = [tuning.submit(one).id for one in made]
    together = [tuning.finish(job) for job in ids]
    began = [min(event.at.ToNanoseconds() for event in events if event.step) for _, events in together]
    ended = [job.finished_at.ToNanoseconds() for job, _ in together]
    assert max(began) < min(ended)  # they did overlap
    for one, (job, events) in zip(made, together):
        assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
        alone = losses(tuning.finish(tuning.submit(one).id)[1])
        assert losses(events) == pytest.approx(alone, rel=1e-5)
        assert generate(daemon, [5, 6, 7], adapter=one.name, max_tokens=4).token_ids[0]


def test_rollback_flips_the_name_and_requests_keep_their_revision(start_daemon, tmp_path):
    flag = f"--state-dir={tmp_path / 'state'}"
    daemon = start_daemon(flag)
    tuning = Tuning(daemon)
    made = spec("tuned")
    made.optimizer.learning_rate = 0.02
    revisions = []
    for steps in (5, 10, 15):
        made.max_steps = steps
        revisions.append(tuning.finish(tuning.submit(made).id)[0].revision)
    assert len(set(revisions)) == 3
    prompt = json.loads(examples()[0])["input_ids"]
    def scores(adapter, daemon=daemon):
        answer = generate(daemon, prompt, adapter=adapter, prompt_logprobs=0, max_tokens=1)
        return [p.logprob for p in answer.prompt_logprobs[0][1:]]
    of = {revision: scores(revision) for revision in revisions}
    assert scores("tuned") == of[revisions[2]] != of[revisions[1]] != of[revisions[0]]
    rollback = lambda revision="", name="tuned": daemon.adapters.RollbackAdapter(
        adapters_pb2.RollbackAdapterRequest(name=name, revision=revision), timeout=60)

    # One that runs keeps what it began with.
    expected = generate(daemon, prompt, adapter=revisions[2], max_tokens=200, ignore_eos=True).token_ids[0]
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(generate(daemon, prompt, adapter="tuned", max_tokens=200, ignore_eos=True)))
    thread.start()
    wait_until(lambda: daemon.metric("vllm:num_requests_running") > 0 or answers)
    rolled = rollback()
    assert rolled.revision == revisions[1] and list(rolled.revisions) == revisions[::-1]
    assert scores("tuned") == of[revisions[1]]
    thread.join()
    assert answers[0].token_ids[0] == expected

    assert rollback().revision == revisions[0]
    error = refusal(rollback)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and revisions[0] in error.details()
    error = refusal(lambda: rollback("ffff"))
    assert error.code() == grpc.StatusCode.NOT_FOUND and revisions[2] in error.details()
    assert refusal(lambda: rollback(name="nobody")).code() == grpc.StatusCode.NOT_FOUND
    assert daemon.ctl("rollback", revisions[1]).returncode == 0
    daemon.kill()
    daemon = start_daemon(flag)  # the name means what it meant
    assert scores("tuned", daemon) == of[revisions[1]]
    shown = daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name="tuned"))
    assert shown.revision == revisions[1] and len(shown.revisions) == 3


def test_metrics_tell_of_running_jobs_and_of_how_the_time_is_shared(tuner):
    daemon, tuning = tuner("state", "--tuning-jobs=1")
    job = tuning.submit(spec("shown", max_steps=100000))
    tuning.submit(spec("behind", max_steps=1))
    wait_until(lambda: tuning.get(job.id).step >= 3)
    generate(daemon, [5, 6, 7], max_tokens=4)
    value = lambda name, **labels: daemon.metric(f"lorad_tuning_{name}", **labels)
    assert value("jobs", state="running") == 1 and value("jobs", state="queued") == 1
    assert value("steps_total") >= 3 and value("tokens_total") > 0
    shown = {"job": job.id, "adapter": "shown"}
    assert 0 < value("loss", **shown) < 20 and value("gradient_norm", **shown) > 0
    assert value("learning_rate", **shown) > 0 and value("tokens_per_second", **shown) > 0
    for use in ("training", "serving"):
        assert value("model_seconds_total", use=use) > 0
    tuning.stub.CancelJob(finetuning_pb2.CancelJobRequest(id=job.id))


def test_answers_stay_the_same_while_a_job_trains(tuner):
    daemon, tuning = tuner()
    prompt = [7, 9, 11, 13]
    alone = generate(daemon, prompt, max_tokens=24).token_ids[0]
    job = tuning.submit(spec(max_steps=100000))
    wait_until(lambda: tuning.get(job.id).step >= 1)
    for _ in range(5):
        assert generate(daemon, prompt, max_tokens=24).token_ids[0] == alone
    assert tuning.get(job.id).state == finetuning_pb2.JOB_STATE_RUNNING
    tuning.stub.CancelJob(finetuning_pb2.CancelJobRequest(id=job.id))


def test_the_same_key_gives_the_same_job(tuner):
    _, tuning = tuner()
    first = tuning.submit(spec(max_steps=1), key="k1")
    assert tuning.submit(spec(max_steps=1), key="k1").id == first.id
    assert tuning.submit(spec(max_steps=1), key="k2").id != first.id


def test_wrong_data_are_refused_with_their_lines(tuner):
    _, tuning = tuner()
    error = refusal(lambda: tuning.submit(spec(lines=[examples()[0], '{"input_ids": [1, 500]}', "nonsense"])))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "line 2: input_ids[1]: 500" in error.details() and "line 3: not a JSON object" in error.details()
    missing = finetuning_pb2.FineTuneSpec(name="x", dataset=finetuning_pb2.DatasetSpec(path="/nowhere.jsonl"))
    assert refusal(lambda: tuning.submit(missing)).code() == grpc.StatusCode.NOT_FOUND
    assert not tuning.stub.ListJobs(finetuning_pb2.ListJobsRequest()).jobs


UNSUPPORTED = {
    "adapter.modules_to_save: v_proj": lambda s: s.adapter.modules_to_save.append("v_proj"),
    "adapter.trainable_token_ids: with model.embed_tokens": lambda s: (
        s.adapter.modules_to_save.append("embed_tokens"), s.adapter.trainable_token_ids.append(3)),
    "adapter.trainable_token_ids: with model.embed_tokens in adapter.targets": lambda s: (
        s.adapter.targets.append("embed_tokens"), s.adapter.trainable_token_ids.append(3)),
    "adapter.bias": lambda s: (setattr(s.adapter, "bias", "all"), setattr(s.adapter, "kind", "mixlora")),
}
INVALID = {
    "adapter.kind": lambda s: setattr(s.adapter, "kind", "vera"),
    "adapter.num_experts": lambda s: setattr(s.adapter, "num_experts", 4),
    "adapter.top_k": lambda s: (setattr(s.adapter, "top_k", 9), setattr(s.adapter, "kind", "mola")),
    "adapter.top_p": lambda s: (setattr(s.adapter, "top_p", 0.5), setattr(s.adapter, "kind", "mixlora")),
    "adapter.expert_lora.kind": lambda s: (setattr(s.adapter.expert_lora, "kind", "vera"), setattr(s.adapter, "kind", "mixlora")),
    "adapter.expert_lora": lambda s: (setattr(s.adapter.expert_lora, "num_experts", 2), setattr(s.adapter, "kind", "mixlora_switch")),
    "adapter.targets": lambda s: s.adapter.targets.append("no_such_proj"),
    "adapter.rank": lambda s: setattr(s.adapter, "rank", 100000),
    "optimizer.name": lambda s: setattr(s.optimizer, "name", "lion"),
    "optimizer.learning_rate": lambda s: setattr(s.optimizer, "learning_rate", float("nan")),
    "micro_batch_size": lambda s: setattr(s, "micro_batch_size", 3),
    "schedule.name": lambda s: setattr(s.schedule, "name", "step"),
    "loss_normalization": lambda s: setattr(s, "loss_normalization", "sum"),
    "dataset.max_length_tokens": lambda s: setattr(s.dataset, "max_length_tokens", 1),
    "epochs": lambda s: setattr(s, "epochs", 0),
    "adapter.init": lambda s: setattr(s.adapter, "init", "eva"),
    "adapter.modules_to_save: nothing_such": lambda s: s.adapter.modules_to_save.append("nothing_such"),
    "adapter.trainable_token_ids: 9999; limit: 0 to": lambda s: s.adapter.trainable_token_ids.append(9999),
    "adapter.trainable_token_ids: 3 twice": lambda s: s.adapter.trainable_token_ids.extend([3, 5, 3]),
    "adapter.trainable_head_token_ids: 9999; limit: 0 to": lambda s: s.adapter.trainable_head_token_ids.append(9999),
    "adapter.bias": lambda s: setattr(s.adapter, "bias", "some"),
    "dataset.eval_fraction": lambda s: setattr(s.dataset, "eval_fraction", 1.5),
    "eval_every_steps": lambda s: setattr(s, "eval_every_steps", 5),
    "early_stopping_patience": lambda s: setattr(s, "early_stopping_patience", 5),
    "eval_prompts": lambda s: s.eval_prompts.append("hello"),
    "max_eval_loss_increase": lambda s: setattr(s, "max_eval_loss_increase", 0.1),
    "keep_revisions": lambda s: setattr(s, "keep_revisions", 0),
    "; lower the rank or the number of experts": lambda s: s.adapter.MergeFrom(
        finetuning_pb2.AdapterSpec(kind="mixlora", num_experts=256, rank=512)),  # of 64 MiB
    "adapter: set with init_adapter": lambda s: setattr(s, "init_adapter", "other"),
}


def test_what_cannot_be_is_refused_by_name(tuner):
    _, tuning = tuner()
    for code, cases in ((grpc.StatusCode.UNIMPLEMENTED, UNSUPPORTED), (grpc.StatusCode.INVALID_ARGUMENT, INVALID)):
        for field, change in cases.items():
            made = spec()
            change(made)
            error = refusal(lambda: tuning.submit(made))
            named = "no_such_proj" if field == "adapter.targets" else field
            assert error.code() == code and named in error.details(), (field, error.details())


def evaluations(events):
    return {event.step: event.eval_loss for event in events if event.HasField("eval_loss")}


def test_what_is_kept_from_training_is_evaluated_and_prompts_are_answered(tuner):
    _, tuning = tuner()
    made = spec("judged", max_steps=10, eval_every_steps=4, eval_prompts=["w5 w6"])
    made.dataset.eval_fraction = 0.25
    job, events = tuning.finish(tuning.submit(made).id)
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
    assert "evaluated on: 6, every 4 steps" in events[0].message
    assert sorted(evaluations(events)) == [4, 8, 10]
    answers = [event.message for event in events if event.message.startswith("w5 w6 => ")]
    assert len(answers) == 3


def test_the_best_is_published_when_the_rest_only_overfits(tuner, tmp_path):
    """Trained on one sequence and evaluated on others, the loss that counts goes up soon, and the job ends."""
    daemon, tuning = tuner()
    eval_file = tmp_path / "eval.jsonl"
    eval_file.write_text("\n".join(examples(6, seed=9)))
    made = spec("stopped", lines=[json.dumps({"input_ids": list(range(10, 40))})], max_steps=400, eval_every_steps=2)
    made.early_stopping_patience = 3
    made.optimizer.learning_rate = 0.02
    made.dataset.eval_path = str(eval_file)
    job, events = tuning.finish(tuning.submit(made).id)
    assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED and job.reason.startswith("stopped early"), job.reason
    by_step = evaluations(events)
    best = min(by_step, key=by_step.get)
    assert f"the best is step {best}," in job.reason and job.step == best + 2 * 3 < 400
    total, count = 0.0, 0  # the loss of what is served is that of the best
    for line in examples(6, seed=9):
        example = json.loads(line)
        scores = generate(daemon, example["input_ids"], adapter="stopped", prompt_logprobs=0, max_tokens=1).prompt_logprobs[0]
        for score, label in list(zip(scores, example["labels"]))[1:]:
            total, count = (total - score.logprob, count + 1) if label != -100 else (total, count)
    assert total / count == pytest.approx(by_step[best], rel=1e-5)
    wrong = spec(max_steps=1)
    eval_file.write_text("nonsense")
    wrong.dataset.eval_path = str(eval_file)
    assert "dataset.eval_path: not a JSON object" in refusal(lambda: tuning.submit(wrong)).details()


def test_a_revision_that_is_worse_than_what_is_served_is_not_published(tuner):
    daemon, tuning = tuner()
    made = spec("guarded", max_steps=20, max_eval_loss_increase=0.05)
    made.dataset.eval_fraction = 0.25
    made.optimizer.learning_rate = 0.005
    first, _ = tuning.finish(tuning.submit(made).id)
    assert first.revision.startswith("guarded@"), first.reason
    before = generate(daemon, [5, 6, 7], adapter="guarded", max_tokens=4).token_ids[0]
    made.optimizer.learning_rate = 1e-6  # as bad as the base
    made.max_steps = 1
    second, _ = tuning.finish(tuning.submit(made).id)
    assert second.state == finetuning_pb2.JOB_STATE_SUCCEEDED and not second.revision
    assert "max_eval_loss_increase: eval loss" in second.reason
    assert generate(daemon, [5, 6, 7], adapter="guarded", max_tokens=4).token_ids[0] == before


def test_the_newest_revisions_and_the_best_are_kept(tuner, tmp_path):
    daemon, tuning = tuner()
    revisions = []
    for steps in (1, 8, 2, 3):  # the second is the best
        made = spec("kept", max_steps=steps, keep_revisions=2)
        made.dataset.eval_fraction = 0.25
        made.optimizer.learning_rate = 0.005
        revisions.append(tuning.finish(tuning.submit(made).id)[0].revision)
    left = sorted(entry.name for entry in (tmp_path / "state/revisions").iterdir())
    assert left == sorted(revisions[1:]) and len(set(revisions)) == 4


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


def test_the_written_adapter_tells_where_it_comes_from(tuner, tmp_path):
    daemon, tuning = tuner()
    made = spec("told", max_steps=2)
    parent = tuning.finish(tuning.submit(made).id)[0].revision
    made.max_steps = 3
    revision = tuning.finish(tuning.submit(made).id)[0].revision
    raw = (tmp_path / "state/revisions" / revision / "adapter_model.safetensors").read_bytes()
    told = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    assert (told["lorad.seed"], told["lorad.step"], told["lorad.parent_revision"]) == ("5", "3", parent)
    assert json.loads(told["lorad.hyperparameters"])["adapter"]["rank"] == 4
    assert len(told["lorad.base_digest"]) == len(told["lorad.data_digest"]) == 64 and told["lorad.version"]


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


def test_preview_shows_what_is_learnt(tuner):
    _, tuning = tuner()
    dataset = finetuning_pb2.DatasetSpec(lines=['{"prompt": "w5 w6", "completion": " w7 w8"}'])
    shown = tuning.stub.PreviewExample(finetuning_pb2.PreviewExampleRequest(dataset=dataset, line=1))
    assert list(shown.token_ids) == [5, 6, 7, 8, 2]
    assert list(shown.trained) == [False, False, True, True, True]
    assert list(shown.pieces) == ["w5", "w6", "w7", "w8", "</s>"]


def test_a_spec_is_yaml_or_json(tuner, tmp_path):
    daemon, _ = tuner()
    data, spec_file = tmp_path / "data.jsonl", tmp_path / "spec.yaml"
    data.write_text("\n".join(examples()))
    spec_file.write_text(
        f"# a comment\nname: 'yaml'\nadapter: {{rank: 3, targets: [q_proj, v_proj], use_rslora: true}}\n"
        f"optimizer:\n  learning_rate: 1e-3\ndataset:\n  path: {data}\n  eval_fraction: 0.25\nmax_steps: 2\nbatch_size: 2\n"
    )
    done = daemon.ctl("--output=json", "train", "submit", f"--spec={spec_file}", "--batch-size=4")
    made = json.loads(done.stdout)["spec"]
    assert made["name"] == "yaml" and made["adapter"] == {"rank": 3, "targets": ["q_proj", "v_proj"], "use_rslora": True}
    assert made["optimizer"]["learning_rate"] == 1e-3 and made["batch_size"] == 4
    for text, named in (("names: x", "names"), ("name: [", "spec.yaml"), ("- 1", "limit: keys of FineTuneSpec")):
        spec_file.write_text(text)
        wrong = daemon.ctl("train", "submit", f"--spec={spec_file}")
        assert wrong.returncode == 2 and named in wrong.stderr
    spec_file.write_text('{"name": "json", "max_steps": 1, "dataset": {"path": "' + str(data) + '"}}')
    assert json.loads(daemon.ctl("--output=json", "train", "submit", f"--spec={spec_file}").stdout)["total_steps"] == 1


def test_a_conversation_is_learnt_where_the_assistant_speaks(build_dir, model, tmp_path):
    folder = tmp_path / "tiny-chat"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ 'w90 ' if m.role == 'user' else 'w91 ' }}{{ m.content }} </s> {% endfor %}"
        "{% if add_generation_prompt %}w91 {% endif %}"
    )
    talk = {"messages": [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w7"}] * 2}
    with Daemon(build_dir, folder, f"--state-dir={tmp_path / 'state'}") as daemon:
        tuning = Tuning(daemon)
        dataset = finetuning_pb2.DatasetSpec(lines=[json.dumps(talk)])
        shown = tuning.stub.PreviewExample(finetuning_pb2.PreviewExampleRequest(dataset=dataset, line=1))
        assert list(shown.token_ids) == [90, 5, 2, 91, 7, 2] * 2
        assert list(shown.trained) == [False, False, False, False, True, True] * 2
        job, _ = tuning.finish(tuning.submit(spec("talk", lines=[json.dumps(talk)] * 4, max_steps=2)).id)
        assert job.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
        assert job.trained_tokens == 2 * 4 * 4
        talk["messages"].pop()
        talk["messages"][1]["content"] = 5
        error = refusal(lambda: tuning.submit(spec(lines=[json.dumps(talk)])))
        assert "line 1: messages[1].content: missing" in error.details()


def test_chat_on_a_model_without_a_template_is_refused(tuner):
    _, tuning = tuner()
    error = refusal(lambda: tuning.submit(spec(lines=['{"messages": [{"role": "assistant", "content": "w5"}]}'])))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and "no chat template" in error.details()


def test_without_a_state_folder_fine_tuning_is_off(daemon):
    error = refusal(lambda: Tuning(daemon).submit(spec()))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and "--state-dir" in error.details()


def test_two_daemons_cannot_share_a_state_folder(tuner, build_dir, model, tmp_path):
    tuner()
    with pytest.raises(AssertionError, match="another daemon uses it"):
        Daemon(build_dir, model, f"--state-dir={tmp_path / 'state'}")


def test_the_command_line(tuner, tmp_path):
    daemon, tuning = tuner()
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(examples()))
    done = daemon.ctl("train", "submit", "shell", f"--data={data}", "--max-steps=4", "--batch-size=4", "--rank=2", "--watch")
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout and "succeeded" in done.stdout
    listed = json.loads(daemon.ctl("--output=json", "train", "list").stdout)["jobs"]
    assert [(job["name"], job["state"], job["step"]) for job in listed] == [("shell", "succeeded", 4)]
    shown = json.loads(daemon.ctl("--output=json", "train", "show", listed[0]["id"]).stdout)
    assert shown["spec"]["adapter"]["rank"] == 2
    events = [json.loads(line) for line in daemon.ctl("--output=json", "train", "watch", listed[0]["id"]).stdout.splitlines()]
    assert events[-1]["state"] == "succeeded" and events[-1]["sequence"] == len(events)
    preview = daemon.ctl("--output=json", "train", "preview", f"--inline={data}", "--line=2")
    assert [token["id"] for token in json.loads(preview.stdout)["tokens"]] == json.loads(examples()[1])["input_ids"]
    assert daemon.ctl("train", "delete", listed[0]["id"]).returncode == 0
    refused = daemon.ctl("train", "show", listed[0]["id"])
    assert refused.returncode == 1 and "NOT_FOUND" in refused.stderr
