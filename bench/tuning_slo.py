#!/usr/bin/env python3
"""Inter-token latency of serving with and without a fine-tuning job, and how fast that job trains meanwhile.

  bench/tuning_slo.py [--model DIR] [--slo 0.2] [--concurrency 4] [--requests 100] [--rounds 3]

One daemon and one job, which is paused where serving is alone. A round measures serving alone, serving and training, serving
alone again, and training alone. Quantiles are of all rounds' tokens; ratios of both to alone.
Goals: p99 at most 1 + slo, and training at least 0.7 of its speed alone times the share of time that serving leaves.
Needs lorad, adapterctl and loadgen built.
"""

import json
import pathlib
import random
import re
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

import shared_flags
from load import Point, quantile, run_once
from servers import Lorad


class Server(Lorad):
    def metric(self, name, **labels):
        page = urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=60).read().decode()
        for line in page.splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def train(self, *arguments):
        done = subprocess.run([self.build_dir / "bin/adapterctl", f"--server={self.address}", "--output=json", "train", *arguments],
                              check=True, capture_output=True, text=True)
        return json.loads(done.stdout)


class Job:
    """The fine-tuning job; trains between go_on() and pause()."""

    def __init__(self, server, data):
        self._server = server
        self._id = server.train("submit", "bench", f"--data={data}", "--max-steps=1000000", "--batch-size=4")["id"]

    def pause(self):
        self._server.train("pause", self._id)
        while self._server.train("show", self._id)["state"] != "paused":
            time.sleep(0.1)

    def go_on(self):
        """Returns when it has made a step."""
        if self._server.train("show", self._id)["state"] == "paused":
            self._server.train("resume", self._id)
        steps = self._server.metric("lorad_tuning_steps_total")
        while self._server.metric("lorad_tuning_steps_total") < steps + 1:
            time.sleep(0.1)


class Meter:
    """What training does while a with block lasts: tokens a second, and the shares of time that serving and it have the model.

    Tokens are counted when a step ends, every few seconds: measured is from the first such end to the last.
    """

    def __init__(self, server):
        self._server = server
        self._ended = threading.Event()
        self._seen = []  # (when, tokens, serving's seconds, training's) at the ends of steps
        self._watcher = threading.Thread(target=self._watch)

    def _watch(self):
        tokens = self._now()[1]
        while not self._ended.wait(0.1):
            now = self._now()
            if now[1] > tokens:
                tokens = now[1]
                self._seen.append(now)

    def _now(self):
        return (time.monotonic(), self._server.metric("lorad_tuning_tokens_total"),
                self._server.metric("lorad_tuning_model_seconds_total", use="serving"),
                self._server.metric("lorad_tuning_model_seconds_total", use="training"))

    def __enter__(self):
        self._watcher.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._watcher.join()
        if len(self._seen) < 2:
            raise RuntimeError(f"{len(self._seen)} steps of training ended; at least two are needed: more --requests or --seconds")
        took, tokens, serving, training = (after - before for before, after in zip(self._seen[0], self._seen[-1]))
        self.tokens_per_s, self.serving_share, self.training_share = tokens / took, serving / took, training / took


def write_data(path, vocab):
    draw = random.Random(1)
    with open(path, "w") as file:
        for _ in range(200):
            ids = [draw.randrange(vocab) for _ in range(64)]
            file.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


def measure(server, job, args):
    """Points alone and beside training, and meters beside serving and alone."""
    alone, both, beside, training = Point(), Point(), [], []

    def serve(point, seed):
        flags = [f"--concurrency={args.concurrency}", f"--requests={args.requests}", "--adapters=0", f"--seed={seed}"]
        point.add(run_once(args.build_dir / "bin/loadgen", server, flags))

    job.pause()
    serve(Point(), 0)  # warm
    for index in range(args.rounds):
        # Prompts of their own, so that nothing is cached; each pair asks for the same lengths.
        serve(alone, 4 * index + 1)
        job.go_on()
        with Meter(server) as meter:
            serve(both, 4 * index + 2)
        beside.append(meter)
        with Meter(server) as meter:
            time.sleep(args.seconds)
        training.append(meter)
        job.pause()
        serve(alone, 4 * index + 3)
    return alone, both, beside, training


def main():
    parser = shared_flags.parser(__doc__, "--build-dir", "--model")
    parser.add_argument("--slo", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--requests", type=int, default=100, help="of one measurement of serving")
    parser.add_argument("--seconds", type=float, default=15, help="of one measurement of training alone")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_data(folder / "data.jsonl", 30000)
        flags = (f"--state-dir={folder / 'state'}", f"--tuning-slo={args.slo}")
        with Server(args.build_dir, args.model, log=folder / "lorad.log", flags=flags) as server:
            alone, both, beside, training = measure(server, Job(server, folder / "data.jsonl"), args)
    for share in (0.5, 0.9, 0.99):
        before, after = quantile(alone.gaps, share), quantile(both.gaps, share)
        print(f"inter-token p{100 * share:.0f}: {before:.1f} ms alone ({len(alone.gaps)} tokens), {after:.1f} beside training "
              f"({len(both.gaps)}), ratio {after / before:.2f}")
    speed = statistics.median(meter.tokens_per_s for meter in training)
    shares = [meter.tokens_per_s / speed / (1 - meter.serving_share) for meter in beside]
    print(f"training: {speed:.1f} tokens/s alone, beside serving {', '.join(f'{m.tokens_per_s:.1f}' for m in beside)}; serving took "
          f"{', '.join(f'{m.serving_share:.2f}' for m in beside)} of the time, "
          f"training {', '.join(f'{m.training_share:.2f}' for m in beside)} (alone "
          f"{statistics.median(m.training_share for m in training):.2f}); ratio to what it leaves {statistics.median(shares):.2f}")


if __name__ == "__main__":
    main()
