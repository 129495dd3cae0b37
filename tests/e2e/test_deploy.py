"""deploy/: every metric that the dashboard and the alerts read is there; the unit file and the manifests fit the daemon."""

import json
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from deploy_files import OF_A_DEVICE, alert_expressions, dashboard_queries, dashboard_variables, drive, metrics_of


@pytest.fixture(scope="module")
def names(daemon):
    """The names of all samples in /metrics."""
    drive(daemon)
    return {re.split(r"[{ ]", line)[0] for line in daemon.http("/metrics")[1].splitlines() if not line.startswith("#")}


def test_the_dashboard_reads_metrics_that_exist(names):
    queries = dashboard_queries()
    assert len(queries) > 20
    for title, query in queries.items():
        assert metrics_of(query) and metrics_of(query) <= names | OF_A_DEVICE, title
    for variable in dashboard_variables():
        assert metrics_of(variable) <= names


def test_the_alerts_read_metrics_that_exist(names):
    expressions = alert_expressions()
    assert len(expressions) == 8
    wanted = set().union(*map(metrics_of, expressions))
    assert wanted and wanted <= names


def test_the_dashboard_shows_every_metric(names):
    """A new metric belongs on the dashboard."""
    shown = set().union(*(metrics_of(query) for query in dashboard_queries().values()))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert families <= {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}


def test_the_dashboard_has_unique_panels_inside_its_grid():
    panels = json.loads((ROOT / "deploy/grafana/lorad.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_pool_reads_metrics_that_exist(names):
    """What the endpoint picker of the Gateway API Inference Extension scrapes."""
    values = (ROOT / "deploy/kubernetes/inference-pool.yaml").read_text()
    assert {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:lora_requests_info"} <= metrics_of(values)
    assert metrics_of(values) <= names


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_the_drop_in_for_a_gpu_is_valid(build_dir, tmp_path):
    folder = tmp_path / "lorad.service.d"
    folder.mkdir()
    for name, place in (("lorad.service", tmp_path), ("gpu.conf", folder)):
        text = (ROOT / "deploy/systemd" / name).read_text()
        (place / name).write_text(text.replace("/usr/local/bin/lorad ", f"{build_dir.resolve()}/bin/lorad "))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", tmp_path / "lorad.service"], capture_output=True, text=True)
    assert done.returncode == 0 and "lorad.service" not in done.stderr and "gpu.conf" not in done.stderr, done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_the_unit_file_is_valid_and_hardened(build_dir, tmp_path):
    unit = (ROOT / "deploy/systemd/lorad.service").read_text()
    assert unit.count("/usr/local/bin/lorad ") == 1
    checked = tmp_path / "lorad.service"
    checked.write_text(unit.replace("/usr/local/bin/lorad ", f"{build_dir.resolve()}/bin/lorad "))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", checked], capture_output=True, text=True)
    assert done.returncode == 0 and "lorad.service" not in done.stderr, done.stderr
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=15", checked], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]  # exposure of at most 1.5 of 10
