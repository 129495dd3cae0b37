"""Serving and training together for a while: seeded requests, cancels, loads, jobs, runs and rollbacks at once.

LORAD_SOAK_SECONDS (8) of it, drawn from LORAD_SOAK_SEED (1). Whatever happens: who asks by a name that nobody changes gets
the answers of the golden files, no request is without an end, no job is lost, each ends once and as it was told to, and
those that trained among all this have the losses that they have alone.
"""

import os
import random
import threading

import grpc
import pytest
from lorad.v1 import adapters_pb2, finetuning_pb2
from support import collect, generate, request, wait_until
from test_training import Run, draw_data
from tuning import Tuning, examples, losses, spec

SECONDS = float(os.environ.get("LORAD_SOAK_SECONDS", "8"))
SEED = int(os.environ.get("LORAD_SOAK_SEED", "1"))
NAMES = ["", "all_linear", "dora", "rslora", "patterns", "saved_norms"]  # of the golden adapters; "" is the base
KINDS = [{"kind": "lora"}, {"kind": "dora", "targets": ["q_proj", "down_proj"]}, {"kind": "lora", "dropout": 0.2},
         {"kind": "mixlora", "num_experts": 3}, {"kind": "lora", "targets": ["v_proj"], "trainable_token_ids": [5, 9]}]
CANCELLED = finetuning_pb2.JOB_STATE_CANCELLED
SUCCEEDED = finetuning_pb2.JOB_STATE_SUCCEEDED


class Part(threading.Thread):
    """Does one thing again and again until the end; what goes wrong is kept."""

    def __init__(self, number, stop, do):
        super().__init__()
        self.draw, self.times, self.error = random.Random(100 * SEED + number), 0, None
        self._stop_now, self._do = stop, do

    def run(self):
        try:
            while not self._stop_now.is_set():
                self._do(self.draw)
                self.times += 1
        except BaseException as error:  # told by the test
            self.error = error
            self._stop_now.set()


def job_spec(number):
    made = spec(f"job-{number % 3}", lines=examples(seed=number), max_steps=4 + number % 5, checkpoint_every_steps=2)
    made.seed = number
    made.adapter.MergeFrom(finetuning_pb2.AdapterSpec(**KINDS[number % len(KINDS)]))
    return made


class Jobs:
    """Submits jobs, a few at a time, and changes its mind about some."""

    def __init__(self, daemon):
        self.tuning, self.numbers, self.cancelled = Tuning(daemon), {}, set()

    def unfinished(self):
        return [job for job in self.numbers if self.tuning.get(job).state < SUCCEEDED]

    def go_on(self, draw):
        running = self.unfinished()
        if len(running) < 3:
            number = len(self.numbers)
            self.numbers[self.tuning.submit(job_spec(number), key=f"key-{number}").id] = number
        elif draw.random() < 0.1:
            self.change(draw.choice(running), draw.choice(["CancelJob", "PauseJob"]))
        else:
            threading.Event().wait(0.05)

    def change(self, job, how):
        ask = lambda method, kind: getattr(self.tuning.stub, method)(getattr(finetuning_pb2, kind)(id=job), timeout=60)
        try:
            if how == "CancelJob":
                if ask("CancelJob", "CancelJobRequest").state == CANCELLED:  # else it was done meanwhile
                    self.cancelled.add(job)
            else:
                ask("PauseJob", "PauseJobRequest")
                ask("ResumeJob", "ResumeJobRequest")
        except grpc.RpcError as error:  # it was done before
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error


def serve(daemon, cases, published):
    """Requests by names that stay as they are, some given up, and by names that training changes meanwhile."""
    def once(draw):
        case = draw.choice(cases)
        made = request(case["prompt"], adapter=case["adapter"], max_tokens=case["max_tokens"], ignore_eos=True)
        call = daemon.inference.Generate(made, timeout=60)
        if draw.random() < 0.2:
            next(call)
            call.cancel()
            return
        assert collect(call).token_ids[0] == case["tokens"], case["name"]
        if published:
            answer = generate(daemon, case["prompt"], adapter=draw.choice(sorted(published)), max_tokens=3, ignore_eos=True)
            assert len(answer.token_ids[0]) == 3
    return once


def test_nothing_is_lost_or_changed_while_everything_goes_on_at_once(start_daemon, golden, cases, tmp_path):
    adapters = golden / "llama3/adapters"
    daemon = start_daemon(f"--state-dir={tmp_path / 'state'}", f"--adapter-dir={adapters}", "--tuning-jobs=2",
                          "--memory-bytes=48MiB")
    answers = [case for case in cases.values() if case["adapter"] in NAMES]
    assert {case["adapter"] for case in answers} == set(NAMES)
    jobs, published, stop = Jobs(daemon), set(), threading.Event()
    run = Run(daemon, "run", seed=SEED)

    def train(draw):
        run.learn(draw_data(draw.randrange(1000)))
        run.step(0.002)
        if draw.random() < 0.2:
            run.call("SaveForSampling", finetuning_pb2.SaveForSamplingRequest(make_current=True))
            published.add("run")

    def come_and_go(draw):
        name = f"visitor-{draw.randrange(3)}"
        daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name=name, path=str(adapters / draw.choice(NAMES[1:]))), timeout=60)
        generate(daemon, [5, 6, 7], adapter=name, max_tokens=2)
        daemon.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name=name), timeout=60)
        stop.wait(0.05)

    def go_back(draw):
        stop.wait(0.2)
        published.update(jobs.tuning.get(job).spec.name for job in list(jobs.numbers) if jobs.tuning.get(job).revision)
        if not published:
            return
        try:
            daemon.adapters.RollbackAdapter(adapters_pb2.RollbackAdapterRequest(name=draw.choice(sorted(published))), timeout=60)
        except grpc.RpcError as error:  # there is none before, or another was published at this moment
            assert error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED), error

    done = [serve(daemon, answers, published), serve(daemon, answers, published), jobs.go_on, train, come_and_go, go_back]
    parts = [Part(number, stop, do) for number, do in enumerate(done)]
    for part in parts:
        part.start()
    stop.wait(SECONDS)
    stop.set()
    for part in parts:
        part.join()
    for part in parts:
        if part.error is not None:
            raise AssertionError(f"seed {SEED}") from part.error
    assert all(part.times > 0 for part in parts), [part.times for part in parts]

    ended = {job: jobs.tuning.finish(job) for job in jobs.numbers}
    listed = jobs.tuning.stub.ListJobs(finetuning_pb2.ListJobsRequest(page_size=1000))
    assert sorted(job.id for job in listed.jobs) == sorted(jobs.numbers)
    for job, (at_end, events) in ended.items():
        wanted = CANCELLED if job in jobs.cancelled else SUCCEEDED
        assert at_end.state == wanted, f"seed {SEED}, job {jobs.numbers[job]}: {at_end.reason}"
        assert [event.state for event in events].count(wanted) == 1
        if wanted == SUCCEEDED:
            assert not at_end.reason and at_end.revision
            assert sorted(losses(events)) == list(range(1, at_end.total_steps + 1))
            assert generate(daemon, [5, 6, 7], adapter=at_end.revision, max_tokens=2, ignore_eos=True).token_ids[0]
    wait_until(daemon.is_idle)
    assert daemon.stop() == 0

    calm = Tuning(start_daemon(f"--state-dir={tmp_path / 'calm'}"))
    for job in [job for job in ended if job not in jobs.cancelled][: len(KINDS)]:
        alone, events = calm.finish(calm.submit(job_spec(jobs.numbers[job])).id)
        assert losses(ended[job][1]) == pytest.approx(losses(events), rel=1e-4), f"seed {SEED}, job {jobs.numbers[job]}"
