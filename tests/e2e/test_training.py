"""Service Training: loops that the caller writes. What the losses are is compared with torch in tests/train."""

import random
import shutil
import threading

import grpc
import pytest
from lorad.v1 import adapters_pb2
from lorad.v1 import finetuning_pb2 as pb
from lorad.v1 import finetuning_pb2_grpc
from support import WAIT_SECONDS, generate, refusal, wait_until


class Run:
    """A run and its next sequence number."""

    def __init__(self, daemon, name, seed=3, sequence=1, rank=4, kind="lora", **adapter):
        self.stub = finetuning_pb2_grpc.TrainingStub(daemon.channel)
        self.request = pb.CreateRunRequest(name=name, seed=seed, sequence=sequence, adapter=pb.AdapterSpec(kind=kind, rank=rank, **adapter))
        made = self.stub.CreateRun(self.request, timeout=60)
        self.id, self.sequence = made.run_id, made.last_sequence

    def call(self, method, request, at=None):
        if at is None:
            self.sequence += 1
            at = self.sequence
        request.run_id, request.sequence = self.id, at
        return getattr(self.stub, method)(request, timeout=60)

    def learn(self, data, at=None, **fields):
        return self.call("ForwardBackward", pb.ForwardBackwardRequest(data=data, **fields), at)

    def step(self, learning_rate=0.01, at=None):
        request = pb.OptimStepRequest(optimizer=pb.OptimizerSpec(learning_rate=learning_rate))
        return self.call("OptimStep", request, at).grad_norm


def draw_data(seed, count=3):
    draw = random.Random(seed)
    data = []
    for _ in range(count):
        ids = [draw.randrange(3, 101) for _ in range(draw.randrange(4, 12))]
        data.append(pb.Datum(token_ids=ids[:-1], target_ids=ids[1:], weights=[draw.choice([0.0, 1.0]) for _ in ids[1:]]))
    return data


@pytest.fixture
def daemon(start_daemon, tmp_path):
    return start_daemon(f"--state-dir={tmp_path / 'state'}")


@pytest.mark.parametrize("kind", ["lora", "mixlora", "mixlora_switch"])
def test_a_loop_learns_and_what_it_made_is_served(daemon, kind):
    run, data = Run(daemon, "loop", kind=kind), draw_data(1)
    first = run.learn(data)
    assert [len(scores.logprobs) for scores in first.scores] == [len(datum.token_ids) for datum in data]
    expected = -sum(w * s for d, scores in zip(data, first.scores) for w, s in zip(d.weights, scores.logprobs))
    assert first.loss == pytest.approx(expected, rel=1e-5)
    for _ in range(8):
        assert run.step() > 0
        last = run.learn(data)
    assert last.loss < 0.9 * first.loss

    saved = run.call("SaveForSampling", pb.SaveForSamplingRequest()).adapter
    assert saved.startswith("loop@")
    datum = data[0]
    tokens = [*datum.token_ids, datum.target_ids[-1]]
    scores_of = lambda name: [p.logprob for p in generate(daemon, tokens, adapter=name, prompt_logprobs=0, max_tokens=1).prompt_logprobs[0][1:]]
    assert scores_of(saved) == pytest.approx(list(last.scores[0].logprobs), rel=1e-5, abs=2e-6)  # a logit's last bit
    assert refusal(lambda: generate(daemon, [5], adapter="loop", max_tokens=1)).code() == grpc.StatusCode.NOT_FOUND
    run.step()
    newer = run.call("SaveForSampling", pb.SaveForSamplingRequest(make_current=True)).adapter
    assert newer != saved
    assert scores_of("loop") == scores_of(newer) != scores_of(saved)


def learnt(run, steps, data):
    """The losses of so many steps."""
    losses = []
    for _ in range(steps):
        losses.append(run.learn(data).loss)
        run.step()
    return losses


@pytest.mark.parametrize("kind", ["lora", "mixlora"])
def test_dropout_is_drawn_by_seed_and_number(start_daemon, tmp_path, kind):
    flag = f"--state-dir={tmp_path / 'state'}"
    daemon, data = start_daemon(flag), draw_data(6, count=4)
    make = lambda name, seed=3: Run(daemon, name, kind=kind, seed=seed, dropout=0.3)
    run = make("first")
    losses = learnt(run, 4, data)
    assert learnt(make("again"), 4, data) == losses  # to the bit
    assert learnt(make("other", seed=4), 4, data)[1:] != losses[1:]
    one, two = run.learn(data), run.learn(data)
    assert one.loss != two.loss  # the same weights, other masks
    assert run.learn(data, at=run.sequence) == two

    # Beside another one its masks are the same.
    beside = Run(daemon, "beside", rank=7)
    thread = threading.Thread(target=learnt, args=(beside, 12, draw_data(7, count=9)))
    thread.start()
    assert learnt(make("together"), 4, data) == pytest.approx(losses, rel=1e-5)
    thread.join()

    run = make("kept")
    learnt(run, 2, data)
    run.call("SaveState", pb.SaveStateRequest())
    expected = learnt(run, 2, data)
    daemon.kill()
    daemon = start_daemon(flag)
    assert learnt(make("kept"), 2, data) == expected


def test_the_routers_loss_is_told_and_has_the_callers_weight(daemon):
    data = draw_data(8)
    norms, told = {}, {}
    for weight in (None, 0.0, 1.0, 100.0):
        run = Run(daemon, f"weighted-{weight}", kind="mixlora", router_aux_loss_coef=0.5)
        options = {} if weight is None else {"loss_options": {"router_loss_weight": weight}}
        answer = run.learn(data, **options)
        told[weight], norms[weight] = answer.aux_loss, run.step()
    assert told[None] == told[1.0] > 0 and told[0.0] == 0
    assert told[100.0] == pytest.approx(100 * told[1.0], rel=1e-6)
    assert norms[None] == norms[1.0] and norms[100.0] > norms[1.0] != norms[0.0]
    plain = Run(daemon, "plain")
    assert not plain.learn(data).HasField("aux_loss")
    error = refusal(lambda: plain.learn(data, at=plain.sequence + 1, loss_options={"router_loss_weight": 2.0}))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "router_loss_weight; limit: a run" in error.details()
    error = refusal(lambda: plain.learn(data, at=plain.sequence + 1, loss_options={"router_loss_weight": -1.0}))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "loss_options.router_loss_weight: -1" in error.details()


def test_the_same_number_is_done_once_and_answers_the_same(daemon):
    run, other, data = Run(daemon, "twice"), Run(daemon, "once", sequence=1), draw_data(2)
    first = run.learn(data)
    assert run.learn(data, at=run.sequence) == first
    other.learn(data)
    assert run.step() == pytest.approx(other.step(), rel=1e-5)  # the gradients were added once
    again = Run(daemon, "twice")
    assert (again.id, again.sequence) == (run.id, run.sequence)
    assert Run(daemon, "twice", sequence=7).id != run.id


def test_numbers_may_arrive_in_any_order(daemon):
    run, data = Run(daemon, "order"), draw_data(3)
    answers = {}
    def step():
        answers["step"] = run.step(at=run.sequence + 2)
    thread = threading.Thread(target=step)
    thread.start()
    run.learn(data, at=run.sequence + 1)
    thread.join()
    assert answers["step"] > 0
    error = refusal(lambda: run.learn(data, at=0))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and "limit: from" in error.details()


def test_a_daemon_that_ends_answers_what_waits_for_a_number_that_never_came(daemon):
    run = Run(daemon, "gap")
    request = pb.OptimStepRequest(run_id=run.id, sequence=run.sequence + 2, optimizer=pb.OptimizerSpec(learning_rate=0.01))
    calls = [run.stub.OptimStep.future(request, timeout=WAIT_SECONDS) for _ in range(2)]
    wait_until(lambda: any(call.done() for call in calls))  # the newer one has taken the older one's place
    older, newer = sorted(calls, key=lambda call: not call.done())
    assert older.code() == grpc.StatusCode.ABORTED and "asked again" in older.details()
    daemon.terminate()
    error = refusal(newer.result)
    assert error.code() == grpc.StatusCode.UNAVAILABLE and "the daemon ends" in error.details()
    assert daemon.process.wait(WAIT_SECONDS) == 0


def test_runs_and_a_job_beside_each_other_learn_what_each_learns_alone(daemon):
    def train(run, seed, into):
        for step in range(5):
            into.append(run.learn(draw_data(seed + step, count=2 + seed % 3)).loss)
            run.step()
    job = pb.FineTuneSpec(name="beside", max_steps=100000)
    job.dataset.lines.extend(['{"input_ids": [5, 6, 7, 8, 9]}'] * 4)
    jobs = finetuning_pb2_grpc.FineTuningStub(daemon.channel)
    running = jobs.SubmitJob(pb.SubmitJobRequest(spec=job), timeout=60)
    together = [[] for _ in range(4)]
    threads = [threading.Thread(target=train, args=(Run(daemon, f"t{i}", seed=i, rank=1 + 3 * i), 10 * i, together[i]))
               for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs.CancelJob(pb.CancelJobRequest(id=running.id))
    for i in range(4):
        alone = []
        train(Run(daemon, f"alone{i}", seed=i, rank=1 + 3 * i), 10 * i, alone)
        assert together[i] == pytest.approx(alone, rel=1e-5)


def test_a_saved_state_brings_weights_and_optimizer_back_also_after_a_kill(start_daemon, tmp_path):
    flag = f"--state-dir={tmp_path / 'state'}"
    daemon = start_daemon(flag)
    run, data = Run(daemon, "state"), draw_data(4)
    for _ in range(3):
        run.learn(data)
        run.step()
    state = run.call("SaveState", pb.SaveStateRequest(label="third")).state_id
    assert state.endswith(":third")
    saved_at = run.sequence

    def go_on(run):
        run.learn(data)
        norm = run.step()
        return norm, run.learn(data).loss
    expected = go_on(run)
    run.call("LoadState", pb.LoadStateRequest(state_id=state))
    assert go_on(run) == expected
    daemon.kill()
    daemon = start_daemon(flag)
    run = Run(daemon, "state")
    assert run.sequence == saved_at  # what came after it was not saved
    assert go_on(run) == expected
    other = Run(daemon, "copy", seed=9)
    other.call("LoadState", pb.LoadStateRequest(state_id=state))
    assert go_on(other) == expected
    other.stub.DeleteRun(pb.DeleteRunRequest(run_id=other.id))
    assert refusal(lambda: other.step()).code() == grpc.StatusCode.NOT_FOUND


def test_a_run_goes_on_from_an_adapter_also_when_that_is_gone(start_daemon, golden, tmp_path):
    """What a run begins from is its own: after a kill it does not ask for the folder again."""
    folder = tmp_path / "dora"
    shutil.copytree(golden / "llama3/adapters/dora", folder)
    flag = f"--state-dir={tmp_path / 'state'}"
    daemon = start_daemon(flag)
    stub = finetuning_pb2_grpc.TrainingStub(daemon.channel)
    request = pb.CreateRunRequest(name="more", sequence=1, init_adapter=str(folder), adapter=pb.AdapterSpec(rank=2))
    error = refusal(lambda: stub.CreateRun(request))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "adapter: set with init_adapter" in error.details()
    request.ClearField("adapter")
    made = stub.CreateRun(request, timeout=60)
    ids = list(range(5, 17))
    learn = pb.ForwardBackwardRequest(run_id=made.run_id, sequence=2, data=[pb.Datum(token_ids=ids[:-1], target_ids=ids[1:])])
    loss = stub.ForwardBackward(learn, timeout=60).loss
    daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="served", path=str(folder)))
    scores = generate(daemon, ids, adapter="served", prompt_logprobs=0, max_tokens=1).prompt_logprobs[0][1:]
    assert loss == pytest.approx(-sum(score.logprob for score in scores), rel=1e-5)

    daemon.kill()
    shutil.rmtree(folder)
    daemon = start_daemon(flag)
    stub = finetuning_pb2_grpc.TrainingStub(daemon.channel)
    again = stub.CreateRun(request, timeout=60)
    assert (again.run_id, again.last_sequence) == (made.run_id, 1)
    assert stub.ForwardBackward(learn, timeout=60).loss == loss

    # Damaged, it is not begun anew with other weights; it is left as it lies.
    daemon.kill()
    state = tmp_path / "state/runs" / made.run_id / "states/step-1/state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x55")
    stub = finetuning_pb2_grpc.TrainingStub(start_daemon(flag).channel)
    error = refusal(lambda: stub.ForwardBackward(learn, timeout=60))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and "is damaged" in error.details()
    assert state.exists()
    [left] = stub.ListRuns(pb.ListRunsRequest()).runs
    assert (left.run_id, left.name) == (made.run_id, "more") and left.reason.startswith("DATA_LOSS"), left.reason
    stub.DeleteRun(pb.DeleteRunRequest(run_id=made.run_id))
    assert not state.exists() and not stub.ListRuns(pb.ListRunsRequest()).runs


def test_what_cannot_be_is_refused_by_name(daemon):
    run, good = Run(daemon, "refused"), draw_data(5, count=1)[0]
    def changed(**fields):
        datum = pb.Datum()
        datum.CopyFrom(good)
        for name, value in fields.items():
            del getattr(datum, name)[:]
            getattr(datum, name).extend(value)
        return [datum]
    tokens = len(good.token_ids)
    wrong = {
        "data": dict(data=[]), "loss": dict(data=[good], loss="dpo"),
        "data[0].target_ids": dict(data=changed(target_ids=[5])),
        "data[0].token_ids": dict(data=changed(token_ids=[100000] * tokens)),
        "data[0].weights": dict(data=changed(weights=[1.0])),
        "data[0].advantages": dict(data=[good], loss="ppo"),
        "data[0].old_logprobs": dict(data=changed(advantages=[1.0] * tokens), loss="importance_sampling"),
        "loss_options": dict(data=[good], loss_options={"beta": 1.0}),
    }
    for field, fields in wrong.items():
        error = refusal(lambda: run.learn(at=run.sequence + 1, **fields))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and error.details().startswith(field), error.details()
    sgd = pb.OptimStepRequest(optimizer=pb.OptimizerSpec(name="sgd", learning_rate=1))
    error = refusal(lambda: run.call("OptimStep", sgd, run.sequence + 1))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED and "sgd" in error.details()
    error = refusal(lambda: run.call("LoadState", pb.LoadStateRequest(state_id="../../etc/1")))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    for too_high in (2**53 + 1, 2**63 - 1, 2**64 - 1):
        for ask in (lambda: run.learn([good], at=too_high), lambda: Run(daemon, "high", sequence=too_high)):
            error = refusal(ask)
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
            assert error.details() == f"sequence: {too_high}; limit: up to {2**53}"
    assert Run(daemon, "highest", sequence=2**53).sequence == 2**53
    assert run.learn([good]).loss > 0  # goes on behind what was refused
    missing = pb.OptimStepRequest(run_id="nobody", sequence=1)
    assert refusal(lambda: run.stub.OptimStep(missing)).code() == grpc.StatusCode.NOT_FOUND
