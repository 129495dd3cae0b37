"""What deploy/ asks of the metrics."""

import json
import re
import tempfile

from conftest import ROOT

# What a daemon has that serves on a device (test_device.py).
OF_A_DEVICE = {"lorad_device_steps_total", "lorad_device_steps_behind_total", "lorad_device_graphs", "lorad_device_graph_bytes"}
METRIC = re.compile(r"\b(?:vllm:|lorad_)[a-z0-9_]+")


def dashboard_queries():
    """{panel title and letter: PromQL} of the Grafana dashboard."""
    dashboard = json.loads((ROOT / "deploy/grafana/lorad.json").read_text())
    return {f"{panel['title']} {target['refId']}": target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())}


def dashboard_variables():
    dashboard = json.loads((ROOT / "deploy/grafana/lorad.json").read_text())
    return [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]


def alert_expressions():
    """The expr of each alert, as text."""
    text = (ROOT / "deploy/prometheus/lorad-alerts.yml").read_text()
    return [block.split("labels:")[0] for block in text.split("expr:")[1:]]


def metrics_of(text):
    return set(METRIC.findall(text))


def drive(daemon):
    """A little of everything: answers of base, adapters and a routed one, a refusal, a load, an unload, a load that fails."""
    import grpc
    from lorad.v1 import adapters_pb2
    from support import generate, refusal, request, write_mixlora

    with tempfile.TemporaryDirectory() as folder:
        daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="routed", path=write_mixlora(folder), replace=True))
        for adapter in ("", "q_v", "rslora", "routed"):
            generate(daemon, [5, 6, 7], adapter=adapter, max_tokens=8, ignore_eos=True)
    assert refusal(lambda: daemon.inference.Generate(request([5], adapter="nobody"))).code() == grpc.StatusCode.NOT_FOUND
    visitor = adapters_pb2.LoadAdapterRequest(name="visitor", path=str(ROOT / "tests/golden/llama3/adapters/q_v"))
    daemon.adapters.LoadAdapter(visitor)
    daemon.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name="visitor"))
    missing = adapters_pb2.LoadAdapterRequest(name="missing", path="/nowhere")
    refusal(lambda: daemon.adapters.LoadAdapter(missing))
