"""deploy/ under a real Prometheus: its rules pass their tests, and every query of the dashboard returns data."""

import json
import math
import pathlib
import subprocess
import threading
import urllib.parse
import urllib.request

import pytest
from conftest import ROOT
from deploy_files import OF_A_DEVICE, dashboard_queries, dashboard_variables, drive, metrics_of
from support import wait_until

PROMETHEUS = ROOT / "deploy/prometheus"


@pytest.fixture(scope="module")
def binaries():
    return pathlib.Path(subprocess.run([ROOT / "scripts/prometheus-env"], capture_output=True, text=True, check=True).stdout.strip())


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def prometheus(binaries, daemon, tmp_path_factory):
    """A Prometheus with the configuration of deploy/ that scrapes the daemon each second; its address."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = (PROMETHEUS / "prometheus.yml").read_text()
    assert config.count("15s") == 2 and config.count("127.0.0.1:9090") == 1
    (folder / "prometheus.yml").write_text(config.replace("15s", "1s").replace("127.0.0.1:9090", daemon.metrics_address))
    (folder / "lorad-alerts.yml").write_text((PROMETHEUS / "lorad-alerts.yml").read_text())
    address = f"127.0.0.1:{free_port()}"
    log = open(folder / "log", "w")
    process = subprocess.Popen([binaries / "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                                f"--web.listen-address={address}"], stdout=log, stderr=log)
    yield address
    process.terminate()
    process.wait()
    log.close()


def ask(address, path, **parameters):
    with urllib.request.urlopen(f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as reply:
        return json.loads(reply.read())["data"]


def query(address, text):
    text = text.replace("$__rate_interval", "10s").replace("$model", ".*").replace("$instance", ".*")
    return ask(address, "query", query=text)["result"]


def test_promtool_accepts_configuration_and_rules(binaries):
    subprocess.run([binaries / "promtool", "check", "config", PROMETHEUS / "prometheus.yml"], check=True)
    subprocess.run([binaries / "promtool", "check", "rules", "--lint-fatal", PROMETHEUS / "lorad-alerts.yml"], check=True)


def test_alerts_fire_when_they_should_and_only_then(binaries):
    subprocess.run([binaries / "promtool", "test", "rules", PROMETHEUS / "lorad-alerts-test.yml"], check=True)


def test_every_query_of_the_dashboard_returns_data(daemon, prometheus):
    ended = threading.Event()
    failures = []

    def traffic():
        try:
            while not ended.is_set():
                drive(daemon)
        except Exception as failure:  # the thread's end is no failure of the test by itself
            failures.append(failure)

    driver = threading.Thread(target=traffic)
    driver.start()
    try:
        def is_scraped():
            try:
                return any(float(sample["value"][1]) >= 8 for sample in query(prometheus, 'count_over_time(up{job="lorad"}[1m])'))
            except OSError:
                return False

        def without_data():
            """{panel: samples} of the queries that return none, or no number: a rate has one only while requests end."""
            found = {title: query(prometheus, text) for title, text in dashboard_queries().items()
                     if not metrics_of(text) <= OF_A_DEVICE}
            return {title: samples for title, samples in found.items()
                    if not samples or not all(math.isfinite(float(sample["value"][1])) for sample in samples)}

        wait_until(is_scraped)
        try:
            wait_until(lambda: not without_data())
        except AssertionError as late:
            raise AssertionError(without_data()) from late
        for variable in dashboard_variables():
            metric, label = variable.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            assert [sample for sample in query(prometheus, metric) if label in sample["metric"]], variable
    finally:
        ended.set()
        driver.join()
    assert not failures


def test_prometheus_evaluates_every_alert(prometheus):
    def rules():
        return [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: rules() and all(rule["health"] != "unknown" for rule in rules()))
    assert {rule["health"] for rule in rules()} == {"ok"}
