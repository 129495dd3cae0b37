"""What tests of fine-tuning have in common: data, specs, the service as they call it."""

import json
import random

from lorad.v1 import finetuning_pb2, finetuning_pb2_grpc

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
