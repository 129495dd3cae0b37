#!/usr/bin/env python3
"""The real daemon under more than it can do, while everything else goes on too.

  bench/soak.py --seconds=600 [--training]

Measures what the daemon can do, then offers 1.3 times that as Gamma arrivals over 100 adapters, some of the requests
cancelled midway, some with a deadline, while adapters are loaded, replaced and unloaded. Once for fcfs and, where lorad has
the flag, once with --slo-first-token. Fails (exit code 1) when
- a request had no proper end, or the daemon's and the client's counts of them differ;
- the daemon died, does not become idle, or ends badly;
- its memory grows: the last tenth of the run against the third tenth (the pool is full by then);
- with --training, fine-tuning jobs come beside all this, some cancelled or paused; and one is lost, fails, or does not end
  IDLE_SECONDS after the traffic;
- with --slo-first-token, less than 0.9 of what it can do met the limit: attainment < 0.9 / overload; with --training, which
  takes a fifth on top of serving's time, 0.9 / overload / 1.2.
Writes OUT/soak.json.
"""

import collections
import contextlib
import json
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import make_model  # noqa: E402
import shared_flags  # noqa: E402
from load import Background, QuietMachine, run_once  # noqa: E402
from servers import Lorad  # noqa: E402

ADAPTERS = 100
TUNING_SLO = 0.2
GROWTH_LIMIT = 1.05
IDLE_SECONDS = 120


class Churn(Background):
    """Loads, replaces and unloads the adapters of the traffic, one after another."""

    def __init__(self, build_dir, address, adapters, seed=3):
        super().__init__()
        self.counts = {"load": 0, "replace": 0, "unload": 0, "refused": 0}
        self.problems = []
        self._ctl = [build_dir / "bin/adapterctl", f"--server={address}", "--output=json"]
        self._adapters = adapters
        self._random = random.Random(seed)

    def _run(self):
        while not self._stop.wait(0.3):
            what = self._random.choice(("load", "replace", "unload"))
            name = f"lora-{self._random.randrange(ADAPTERS)}"
            # Another adapter's folder: who asks by this name later gets other weights.
            path = self._adapters / f"lora-{self._random.randrange(ADAPTERS)}"
            arguments = {"load": ["load", f"visitor-{self.counts['load']}", path], "replace": ["load", name, path, "--replace"],
                         "unload": ["unload", name]}[what]
            done = subprocess.run([*self._ctl, *arguments], capture_output=True, text=True)
            self.counts[what] += 1
            if what == "load" and self.counts["load"] > 20:
                subprocess.run([*self._ctl, "unload", f"visitor-{self.counts['load'] - 20}"], capture_output=True)
            if done.returncode == 0:
                continue
            # Not there (unload), not yet gone (load after unload), or no room: said clearly, and nobody is disturbed.
            code = re.search(r'"code": ?"(\w+)"', done.stderr)
            if code and code[1] in ("NOT_FOUND", "RESOURCE_EXHAUSTED", "ALREADY_EXISTS", "FAILED_PRECONDITION", "CANCELLED", "ABORTED"):
                self.counts["refused"] += 1
            else:
                self.problems.append(f"{what} {name}: {done.stderr.strip()}")


class Training(Background):
    """Keeps fine-tuning jobs coming, two at a time, cancels some and pauses others."""

    KINDS = ({"kind": "lora", "rank": 8}, {"kind": "dora", "rank": 4}, {"kind": "lora", "rank": 4, "dropout": 0.1},
             {"kind": "mixlora", "rank": 4, "num_experts": 4, "targets": ["up_proj", "down_proj"]})

    def __init__(self, build_dir, address, folder, vocab_size, seed=5):
        super().__init__()
        self.problems = []
        self._ctl = [build_dir / "bin/adapterctl", f"--server={address}", "--output=json", "train"]
        self._folder, self._random = folder, random.Random(seed)
        self._jobs, self._cancelled = [], set()
        self._data = folder / "data.jsonl"
        lines = [[self._random.randrange(3, vocab_size) for _ in range(self._random.randrange(8, 64))] for _ in range(64)]
        self._data.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in lines))

    def _call(self, *arguments):
        done = subprocess.run([*self._ctl, *arguments], capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout) if done.stdout.strip() else {}
        if not re.search(r'"code": ?"FAILED_PRECONDITION"', done.stderr):  # it was over before
            self.problems.append(f"{' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return None

    def _submit(self):
        number = len(self._jobs)
        spec = {"name": f"tuned-{number % 4}", "seed": number, "max_steps": self._random.randrange(3, 12), "batch_size": 4,
                "micro_batch_size": 2, "adapter": self.KINDS[number % len(self.KINDS)], "dataset": {"path": str(self._data)}}
        path = self._folder / "spec.json"
        path.write_text(json.dumps(spec))
        made = self._call("submit", f"--spec={path}")
        if made:
            self._jobs.append(made["id"])

    def _states(self):
        return {job["id"]: job for job in (self._call("list") or {}).get("jobs", [])}

    def _run(self):
        while not self._stop.wait(0.5) and not self.problems:
            running = [job for job, shown in self._states().items() if shown["state"] in ("queued", "running", "paused")]
            if len(running) < 2:
                self._submit()
            elif self._random.random() < 0.05:
                job = self._random.choice(running)
                if self._random.random() < 0.5:
                    self._call("cancel", job)
                    self._cancelled.add(job)
                elif self._call("pause", job) is not None:
                    self._call("resume", job)

    def finish(self):
        """Once the traffic is over: waits for what still trains; the counts of how jobs ended."""
        deadline = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < deadline:
            jobs = self._states()
            if all(job["state"] in ("succeeded", "failed", "cancelled") for job in jobs.values()):
                break
            time.sleep(1)
        lost = [job for job in self._jobs if job not in jobs]
        if lost:
            self.problems.append(f"jobs lost: {lost}")
        for job in jobs.values():
            allowed = ("succeeded", "cancelled") if job["id"] in self._cancelled else ("succeeded",)
            if job["state"] not in allowed or (job["state"] == "succeeded" and job.get("reason")):
                self.problems.append(f"job {job['id']}: {job['state']}: {job.get('reason')}")
        return dict(collections.Counter(job["state"] for job in jobs.values()))


class Watch(Background):
    """Resident memory of a process, each second."""

    def __init__(self, pid):
        super().__init__()
        self.samples_mib = []
        self._pid = pid

    def _run(self):
        while not self._stop.wait(1):
            with contextlib.suppress(OSError):
                found = re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{self._pid}/status").read_text())
                self.samples_mib.append(int(found[1]) / 1024)

    def growth(self):
        """The last tenth's mean over the third tenth's."""
        tenth = max(1, len(self.samples_mib) // 10)
        return statistics.mean(self.samples_mib[-tenth:]) / statistics.mean(self.samples_mib[2 * tenth:3 * tenth])


def metrics(server):
    """{series without labels: sum of its values} and the series themselves."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s]\S*) (\S+)$", text, re.M)}


def total(values, name, **labels):
    return sum(value for series, value in values.items()
               if re.match(re.escape(name) + r"(\{|$)", series) and all(f'{key}="{text}"' in series for key, text in labels.items()))


def become_idle(server):
    deadline = time.monotonic() + IDLE_SECONDS
    while time.monotonic() < deadline:
        values = metrics(server)
        if total(values, "vllm:num_requests_running") == 0 and total(values, "vllm:num_requests_waiting") == 0:
            return values
        time.sleep(0.5)
    return None


class Soak:
    def __init__(self, arguments):
        self.arguments = arguments
        self.loadgen = arguments.build_dir / "bin/loadgen"
        self.base = make_model.make_base(arguments.data, arguments.shape)
        self.adapters = make_model.make_adapters(arguments.data, arguments.shape, ADAPTERS, [8], ["q", "k", "v", "o"])
        self.quiet = QuietMachine(arguments.run_under)
        self.problems = []

    def flags(self):
        return [f"--adapters={ADAPTERS}", f"--vocab-size={make_model.SHAPES[self.arguments.shape]['vocab_size']}",
                f"--slo-first-token={self.arguments.slo}"]

    def start(self, *flags):
        # Room for about half of the adapters beside the KV cache: they come and go.
        server = Lorad(self.arguments.build_dir, self.base, log=self.arguments.out / "soak.log",
                       flags=(f"--adapter-dir={self.adapters}", "--memory-bytes=160MiB", "--max-sequences=32",
                              "--queue-limit=100000", "--log-level=warning", *flags))
        return server

    def capacity(self):
        """Requests a second in a closed loop of as many streams as run at once."""
        with self.start() as server:
            run_once(self.loadgen, server, ["--requests=64", "--concurrency=32", *self.flags()])
            report = run_once(self.loadgen, server, ["--requests=192", "--concurrency=32", "--skip=64", *self.flags()])
        return report["counted_tokens"] / report["counted_seconds"] / (report["output_tokens"] / report["requests"])

    def run(self, name, rate, *flags):
        """One mode; its report."""
        requests = int(rate * self.arguments.seconds)
        with contextlib.ExitStack() as stack:
            training = None
            if self.arguments.training:
                folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
                flags = (*flags, f"--state-dir={folder / 'state'}", "--tuning-jobs=2", f"--tuning-slo={TUNING_SLO}")
            server = stack.enter_context(self.start(*flags))
            with contextlib.ExitStack() as beside:
                churn = beside.enter_context(Churn(self.arguments.build_dir, server.address, self.adapters))
                watch = beside.enter_context(Watch(server.process.pid))
                if self.arguments.training:
                    vocab_size = make_model.SHAPES[self.arguments.shape]["vocab_size"]
                    training = beside.enter_context(Training(self.arguments.build_dir, server.address, folder, vocab_size))
                report = run_once(self.loadgen, server, [
                    f"--requests={requests}", f"--rate={rate}", "--cv=1", "--cancel-share=0.05", "--deadline-share=0.05",
                    "--deadline=20", *self.flags()], check=False)
            values = become_idle(server)
            jobs = training.finish() if training else {}
            if training:
                self.problems += [f"{name}: {problem}" for problem in training.problems]
            self.check(name, server, report, values, churn, watch)
            server.process.terminate()
            code = server.process.wait(60)
            if code != 0:
                self.problems.append(f"{name}: exit code {code}")
        del report["samples"]
        report.update(rate=rate, flags=flags, churn=churn.counts, jobs=jobs, rss_mib={"start": watch.samples_mib[0], "max": max(watch.samples_mib),
                      "end": watch.samples_mib[-1], "growth": watch.growth()},
                      evictions=total(values or {}, "lorad_adapter_evictions_total"),
                      preemptions=total(values or {}, "vllm:num_preemptions_total"))
        return report

    def check(self, name, server, report, values, churn, watch):
        problem = lambda text: self.problems.append(f"{name}: {text}")
        if report["ends"]["broken"]:
            problem(f"{report['ends']['broken']} requests without a proper end: {report.get('reasons')}")
        if sum(report["ends"].values()) != report["requests"]:
            problem(f"ends {report['ends']} of {report['requests']} requests")
        if churn.problems:
            problem(f"commands: {churn.problems[:5]}")
        if values is None:
            problem(f"not idle after {IDLE_SECONDS} s")
        else:
            answered = total(values, "vllm:request_success_total", finished_reason="length")
            if not report["ends"]["complete"] <= answered <= report["requests"]:
                problem(f"the daemon counts {answered} answers, the client {report['ends']['complete']}")
        if watch.growth() > GROWTH_LIMIT:
            problem(f"memory grew by {watch.growth():.3f}: {watch.samples_mib[0]:.0f} to {watch.samples_mib[-1]:.0f} MiB")

    def has_flag(self, flag):
        done = subprocess.run([self.arguments.build_dir / "bin/lorad", "--help"], capture_output=True, text=True, check=True)
        return flag in done.stdout

    def all(self):
        self.quiet.need(60)
        capacity = self.capacity()
        rate = capacity * self.arguments.overload
        print(f"capacity: {capacity:.2f} requests/s; offered: {rate:.2f}", flush=True)
        results = {"capacity_requests_per_s": capacity, "offered_requests_per_s": rate, "seconds": self.arguments.seconds,
                   "slo_first_token_s": self.arguments.slo}
        modes = {"fcfs": ()}
        if self.has_flag("--slo-first-token"):
            modes["slo"] = (f"--slo-first-token={self.arguments.slo}",)
        for name, flags in modes.items():
            self.quiet.need(self.arguments.seconds)
            results[name] = self.run(name, rate, *flags)
            print(name, json.dumps(results[name]), flush=True)
        self.quiet.release()
        wanted = 0.9 / self.arguments.overload / (1 + TUNING_SLO if self.arguments.training else 1)
        if "slo" in results and results["slo"]["slo_attainment"] < wanted:
            self.problems.append(f"slo: {results['slo']['slo_attainment']:.3f} met the limit, wanted {wanted:.3f}")
        results["problems"] = self.problems
        (self.arguments.out / "soak.json").write_text(json.dumps(results, indent=1) + "\n")
        return results


def main():
    parser = shared_flags.parser(__doc__, "--build-dir", "--data", "--out", "--run-under")
    parser.add_argument("--shape", choices=make_model.SHAPES, default="135m")
    parser.add_argument("--seconds", type=float, default=600, help="of each mode")
    parser.add_argument("--overload", type=float, default=1.3)
    parser.add_argument("--slo", type=float, default=6, help="seconds to the first token")
    parser.add_argument("--training", action="store_true", help="fine-tuning jobs beside it")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    problems = Soak(arguments).all()["problems"]
    for problem in problems:
        print("problem:", problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
