#!/usr/bin/env python3
"""Inter-token latency of serving with and without a fine-tuning job, and how fast that job trains meanwhile.

  bench/tuning_slo.py [--model DIR] [--slo 0.2] [--concurrency 4] [--seconds 30]

One daemon; three parts of --seconds each, in turns: serving alone, training alone, both. Prints ratios of both to alone.
Goals: p99 at most 1 + slo, and training at least 0.7 of its speed alone times the share of time that serving leaves.
Needs lorad, adapterctl and loadgen built.
"""

import argparse
import json
import os
import pathlib
import random
import re
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "build/release/bin"
CACHE = pathlib.Path(os.environ.get("LORAD_CACHE", pathlib.Path.home() / ".cache/lorad"))


class Daemon:
    def __init__(self, args, state):
        command = [BIN / "lorad", f"--model={args.model}", "--listen=127.0.0.1:0", "--metrics=127.0.0.1:0",
                   f"--state-dir={state}", f"--tuning-slo={args.slo}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = re.match(r"ready listen=(\S+) metrics=(\S+)", self.process.stdout.readline())
        self.address, self.metrics = found.groups()

    def metric(self, name, **labels):
        page = urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=60).read().decode()
        for line in page.splitlines():
            if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def ctl(self, *arguments):
        done = subprocess.run([BIN / "adapterctl", f"--server={self.address}", "--output=json", *arguments], check=True,
                              capture_output=True, text=True)
        return json.loads(done.stdout)

    def totals(self):
        seconds = {use: self.metric("lorad_tuning_model_seconds_total", use=use) for use in ("training", "serving")}
        return {"tokens": self.metric("lorad_tuning_tokens_total"), **seconds}


def load(daemon, args):
    out = pathlib.Path(tempfile.mkstemp(suffix=".json")[1])
    subprocess.run([BIN / "loadgen", f"--server={daemon.address}", f"--concurrency={args.concurrency}",
                    f"--requests={args.requests}", "--adapters=0", f"--json={out}"], check=True, capture_output=True)
    return json.loads(out.read_text())


def write_data(path, vocab):
    draw = random.Random(1)
    with open(path, "w") as file:
        for _ in range(200):
            ids = [draw.randrange(vocab) for _ in range(64)]
            file.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(CACHE / "bench/135m"))
    parser.add_argument("--slo", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=25)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data.jsonl"
        write_data(data, 30000)
        daemon = Daemon(args, pathlib.Path(folder) / "state")
        try:
            load(daemon, args)  # warm
            alone = load(daemon, args)
            job = daemon.ctl("train", "submit", "bench", f"--data={data}", "--max-steps=100000", "--batch-size=4")
            while daemon.metric("lorad_tuning_steps_total") < 1:
                time.sleep(0.2)
            before, began = daemon.totals(), time.monotonic()
            time.sleep(args.seconds)
            training = (daemon.totals()["tokens"] - before["tokens"]) / (time.monotonic() - began)
            before, began = daemon.totals(), time.monotonic()
            both = load(daemon, args)
            after, took = daemon.totals(), time.monotonic() - began
            beside = (after["tokens"] - before["tokens"]) / took
            serving = (after["serving"] - before["serving"]) / took
            daemon.ctl("train", "cancel", job["id"])
        finally:
            daemon.process.kill()
    for name in ("p50_ms", "p99_ms"):
        print(f"inter-token {name}: {alone['inter_token'][name]:.1f} alone, {both['inter_token'][name]:.1f} beside training, "
              f"ratio {both['inter_token'][name] / alone['inter_token'][name]:.2f}")
    print(f"training tokens/s: {training:.1f} alone, {beside:.1f} beside serving; serving took {serving:.2f} of the time; "
          f"ratio to what it leaves {beside / training / max(1e-9, 1 - serving):.2f}")


if __name__ == "__main__":
    main()
