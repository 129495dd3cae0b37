"""What training makes: evaluated, published as revisions, rolled back, kept."""

import json
import threading

import grpc
import pytest
from lorad.v1 import adapters_pb2, finetuning_pb2
from support import generate, refusal, wait_until
from tuning import Tuning, examples, spec


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
    done = daemon.ctl("rollback", revisions[1])
    assert done.returncode == 0 and f"revision          {revisions[1]}\n" in done.stdout
    assert json.loads(daemon.ctl("--output=json", "show", "tuned").stdout)["revisions"] == revisions[::-1]
    daemon.kill()
    daemon = start_daemon(flag)  # the name means what it meant
    assert scores("tuned", daemon) == of[revisions[1]]
    shown = daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name="tuned"))
    assert shown.revision == revisions[1] and len(shown.revisions) == 3


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
