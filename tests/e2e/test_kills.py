"""Fine-tuning through kill -9 at any moment: no job is lost, run twice, or ends with other bits.

LORAD_KILLS (12) kills, drawn from LORAD_KILL_SEED (1): at a random time, while a checkpoint is written, while a result is
published, while the store is migrated. The long form, 50 of them, is labelled slow.
"""

import os
import pathlib
import random
import sqlite3
import subprocess
import time

from lorad.v1 import finetuning_pb2
from support import generate
from tuning import Tuning, examples, losses, spec

KILLS = int(os.environ.get("LORAD_KILLS", "12"))
SEED = int(os.environ.get("LORAD_KILL_SEED", "1"))
PATIENCE_SECONDS = 20


def job_spec(number):
    made = spec(f"job-{number}", lines=examples(seed=number), max_steps=60, checkpoint_every_steps=1 + number % 3)
    made.seed = number
    made.adapter.dropout = 0.1 * (number % 2)
    made.optimizer.learning_rate = 0.005
    return made


def weights(state, revision):
    """The tensors' bytes of what a job made, without the header, which says who made it."""
    content = (state / "revisions" / revision / "adapter_model.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def await_sight(jobs, pattern):
    """Until a path like this is there; patience has an end, since what is waited for may be over already."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and not any(jobs.glob(pattern)):
        pass


def kill_while(draw, what, daemon, state):
    jobs = state / "jobs"
    if what == "checkpoint":
        await_sight(jobs, "*/checkpoints/unfinished-*")
    elif what == "publish":
        await_sight(jobs, "*/adapter.unfinished")
    time.sleep(draw.uniform(0, 0.4 if what == "any time" else 0.004))
    daemon.kill()


def test_jobs_end_with_the_same_bits_after_any_number_of_kills(start_daemon, tmp_path):
    draw = random.Random(SEED)
    state = tmp_path / "killed"
    flags = (f"--state-dir={state}", "--tuning-jobs=1")  # each trains alone, so that the bits can be compared
    daemon = start_daemon(*flags)
    submitted = {}
    for kill in range(KILLS):
        tuning = Tuning(daemon)
        while sum(tuning.get(job).step < 50 for job in submitted) < 2:
            number = len(submitted)
            submitted[tuning.submit(job_spec(number), key=f"key-{number}").id] = number
        kill_while(draw, draw.choice(["any time", "checkpoint", "publish"]), daemon, state)
        daemon = start_daemon(*flags)
    tuning = Tuning(daemon)
    ended = {number: tuning.finish(job) for job, number in submitted.items()}
    listed = tuning.stub.ListJobs(finetuning_pb2.ListJobsRequest())
    assert sorted(job.id for job in listed.jobs) == sorted(submitted)

    calm_daemon = start_daemon(f"--state-dir={tmp_path / 'calm'}", "--tuning-jobs=1")
    calm = Tuning(calm_daemon)
    for number, (job, events) in ended.items():
        expected, calm_events = calm.finish(calm.submit(job_spec(number)).id)
        assert job.state == expected.state == finetuning_pb2.JOB_STATE_SUCCEEDED, job.reason
        assert losses(events) == losses(calm_events), f"seed {SEED}, job {number}"  # to the bit
        assert weights(state, job.revision) == weights(tmp_path / "calm", expected.revision)
        assert job.trained_tokens == expected.trained_tokens
        finals = [event for event in events if event.state == finetuning_pb2.JOB_STATE_SUCCEEDED]
        assert len(finals) == 1
        prompt = [5, 6, 7]
        assert (generate(daemon, prompt, adapter=f"job-{number}", max_tokens=4).token_ids[0]
                == generate(calm_daemon, prompt, adapter=f"job-{number}", max_tokens=4).token_ids[0])
    leftovers = [str(path) for path in pathlib.Path(state).rglob("*unfinished*")]
    assert not leftovers


def test_a_kill_during_a_migration_leaves_the_old_store_or_the_new_one(build_dir, model, start_daemon, tmp_path):
    draw = random.Random(SEED)
    state = tmp_path / "state"
    daemon = start_daemon(f"--state-dir={state}")
    tuning = Tuning(daemon)
    jobs = []
    for number in range(3):
        jobs.append(tuning.submit(job_spec(number)).id)
        tuning.stub.PauseJob(finetuning_pb2.PauseJobRequest(id=jobs[-1]))
    steps = [tuning.get(job).step for job in jobs]
    daemon.kill()
    with sqlite3.connect(state / "jobs.db") as store:
        newest = store.execute("PRAGMA user_version").fetchone()[0]
    store.close()

    for _ in range(max(2, KILLS // 4)):
        with sqlite3.connect(state / "jobs.db") as store:  # as version 2 wrote it
            store.executescript("DROP TABLE revisions; DROP TABLE aliases; ALTER TABLE events DROP COLUMN aux_loss;"
                                "PRAGMA user_version = 2;")
        store.close()
        killed = subprocess.Popen([build_dir / "bin/lorad", f"--model={model}", "--listen=127.0.0.1:0", "--metrics=",
                                   "--memory-bytes=64MiB", f"--state-dir={state}"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Opening the store makes its log; the migration follows at once.
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end and not (state / "jobs.db-wal").exists():
            pass
        time.sleep(draw.uniform(0, 0.01))
        killed.kill()
        killed.wait()
        with sqlite3.connect(state / "jobs.db") as store:
            version = store.execute("PRAGMA user_version").fetchone()[0]
            tables = {row[0] for row in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            assert 2 <= version <= newest
            assert ("revisions" in tables) == ("aliases" in tables) == (version >= 3)
        store.close()
        daemon = start_daemon(f"--state-dir={state}")
        tuning = Tuning(daemon)
        assert [tuning.get(job).step for job in jobs] == steps
        assert all(tuning.get(job).state == finetuning_pb2.JOB_STATE_PAUSED for job in jobs)
        daemon.kill()
