"""Fine-tuning in the daemon: from a submitted job to an adapter that is served, through kills and refusals."""

import json
import random
import subprocess
import time

import grpc
import pytest
from lorad.v1 import adapters_pb2, finetuning_pb2
from support import Daemon, generate, refusal, wait_until
from tuning import Tuning, examples, losses, spec


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
    assert any(f"checkpoint of step {steps[-1]} is set aside" in message for message in messages)
    assert messages[-1] == f"goes on from the checkpoint of step {steps[0]}"
    assert (folder / f"damaged-{steps[-1]}/state.safetensors").exists()
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
    with pytest.raises(AssertionError, match='"FAILED_PRECONDITION: --state-dir: /[^:]*: another daemon uses it; limit: one daemon a folder; '):
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
    deleted = daemon.ctl("train", "delete", listed[0]["id"])
    assert deleted.returncode == 0 and deleted.stdout == f"deleted {listed[0]['id']}\n"
    refused = daemon.ctl("train", "show", listed[0]["id"])
    assert refused.returncode == 1 and "NOT_FOUND" in refused.stderr and "adapterctl train list" in refused.stderr
