"""Drives a server with the load generator, in slices on a quiet machine, and adds the slices up."""

import json
import math
import os
import pathlib
import resource
import shlex
import subprocess
import tempfile
import threading
import time

HOLD_SECONDS = 170


def quantile(values, share):
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


class QuietMachine:
    """Keeps the machine to itself for a while, where others use it too: `command` waits for that and runs what follows it
    (say `flock FILE`); "" is for a machine that is always quiet. Nobody waits much longer than HOLD_SECONDS."""

    def __init__(self, command=""):
        self._command = shlex.split(command)
        self._holder = None
        self._since = 0.0

    def need(self, seconds):
        """Has the machine, for `seconds` more: lets others on first where that would be too long."""
        if self._holder and time.monotonic() - self._since + seconds > HOLD_SECONDS:
            self.release()
        if self._command and not self._holder:
            self._holder = subprocess.Popen([*self._command, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._holder.stdin.write("here\n")
            self._holder.stdin.flush()
            if self._holder.stdout.readline() != "here\n":
                raise RuntimeError(f"{shlex.join(self._command)} did not run its command")
            self._since = time.monotonic()

    def release(self):
        if self._holder:
            self._holder.communicate()
            self._holder = None


def machine_cpu_seconds():
    """What all cores were busy with so far, the host's other guests included."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds(server):
    """What the server, this program and the programs that it ran to their end have used so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return server.cpu_seconds() + sum(usage.ru_utime + usage.ru_stime for usage in used)


class OthersCpu:
    """What share of a core programs that do not belong to a measurement took while it ran."""

    def __init__(self, server):
        self._server = server
        self._others = machine_cpu_seconds() - own_cpu_seconds(server)
        self._begin = time.monotonic()

    def share(self):
        others = machine_cpu_seconds() - own_cpu_seconds(self._server) - self._others
        return max(0.0, others / (time.monotonic() - self._begin))


def run_once(loadgen, server, flags, check=True):
    """One report of the load generator, as its JSON. With `check`, a request without a proper end raises."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        command = [loadgen, f"--server={server.address}", f"--protocol={server.protocol}", f"--json={report}", *flags]
        others = OthersCpu(server)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in ((0,) if check else (0, 1)):
            raise RuntimeError(f"{shlex.join(map(str, command))}: {done.stdout} {done.stderr}")
        return {**json.loads(report.read_text()), "others_cpu_share_of_a_core": others.share()}


class Point:
    """What several slices of one trace came to together."""

    def __init__(self):
        self.tokens = self.seconds = self.requests = self.wall_seconds = self.in_time = 0
        self.first, self.gaps, self.client_cpu, self.others_cpu = [], [], [], []

    def add(self, report):
        self.tokens += report["counted_tokens"]
        self.seconds += report["counted_seconds"]
        self.wall_seconds += report["seconds"]
        self.requests += report["requests"]
        self.first += report["samples"]["first_token_ms"]
        self.gaps += report["samples"]["inter_token_ms"]
        self.client_cpu.append(report["client_cpu_share_of_a_core"])
        self.others_cpu.append(report["others_cpu_share_of_a_core"])
        self.in_time += report["slo_attainment"] * report["requests"]

    @property
    def tokens_per_s(self):
        return self.tokens / self.seconds

    def seconds_for(self, requests):
        return requests * self.wall_seconds / self.requests

    def summary(self):
        return {
            "requests": self.requests, "output_tokens_per_s": round(self.tokens_per_s, 1),
            "first_token_p50_ms": round(quantile(self.first, 0.5), 1), "first_token_p99_ms": round(quantile(self.first, 0.99), 1),
            "inter_token_p50_ms": round(quantile(self.gaps, 0.5), 1), "inter_token_p99_ms": round(quantile(self.gaps, 0.99), 1),
            "slo_attainment": round(self.in_time / self.requests, 3), "client_cpu_share_of_a_core": round(max(self.client_cpu), 3),
            "others_cpu_share_of_a_core": round(max(self.others_cpu), 3),
        }


def run_point(point, loadgen, server, requests, concurrency, flags, quiet):
    """Adds `requests` of the trace to `point`, in slices that fit into the time that the machine may be held."""
    done = 0
    while done < requests:
        left = requests - done
        if point.requests:  # how fast it is is known
            fits = max(2 * concurrency, int(0.9 * HOLD_SECONDS * point.requests / point.wall_seconds))
            count = math.ceil(left / math.ceil(left / fits))
            quiet.need(point.seconds_for(count))
        else:
            count = min(left, 2 * concurrency)
            quiet.need(60)
        point.add(run_once(loadgen, server, [f"--concurrency={concurrency}", f"--requests={count}", f"--skip={done}", *flags]))
        done += count


class Background:
    """A thread for as long as a with block lasts. Subclasses have _run(), which ends soon after _stop is set."""

    def __init__(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
