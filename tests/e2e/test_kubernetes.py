"""deploy/kubernetes: what kubectl makes of it fits together, and fits the daemon and the image."""

import re
import subprocess

import pytest
import yaml
from conftest import ROOT
from deploy_files import metrics_of
from kubernetes_files import COMPONENTS, FOLDER, FORMS, Rendered, bytes_of, needs_kubectl, port_of, rendered_text, seconds_to_start

pytestmark = needs_kubectl
GIB = 1 << 30
CONTAINERFILE = (ROOT / "deploy/container/Containerfile").read_text()
every_form = pytest.mark.parametrize("form, component", [(form, component) for form in FORMS for component in (None, *COMPONENTS)])


@every_form
def test_ports_are_the_same_everywhere(form, component):
    made = Rendered(form, component)
    ports = made.ports()
    assert ports == {"grpc": port_of(made.config["listen"]), "metrics": port_of(made.config["metrics"])}
    assert {port["name"]: port["port"] for port in made.objects["Service"]["spec"]["ports"]} == ports
    assert all(port["targetPort"] in ports for port in made.objects["Service"]["spec"]["ports"])
    assert all(port["port"] in ports for rule in made.objects["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert made.container[probe]["httpGet"]["port"] == "metrics"
    assert made.deployment["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    pool = list(yaml.safe_load_all((FOLDER / "inference-pool.yaml").read_text()))
    assert [port["number"] for port in pool[0]["spec"]["targetPorts"]] == [ports["grpc"]]
    assert f"model-server-metrics-port: {ports['metrics']}" in (FOLDER / "inference-pool.yaml").read_text()
    assert f"EXPOSE {ports['grpc']} {ports['metrics']}" in CONTAINERFILE


@every_form
def test_whatever_selects_pods_selects_these(form, component):
    made = Rendered(form, component)
    labels = made.deployment["template"]["metadata"]["labels"]
    assert labels == made.deployment["selector"]["matchLabels"] == made.objects["Service"]["spec"]["selector"]
    for kind in {"NetworkPolicy", "PodDisruptionBudget", "PodMonitor"} & set(made.objects):
        selector = made.objects[kind]["spec"].get("podSelector") or made.objects[kind]["spec"]["selector"]
        assert selector["matchLabels"] == labels
    (pool, *_) = yaml.safe_load_all((FOLDER / "inference-pool.yaml").read_text())
    assert pool["spec"]["selector"]["matchLabels"] == labels


@every_form
def test_flags_name_what_is_mounted(form, component):
    made = Rendered(form, component)
    mounts = made.mounts()
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in made.container["args"])
    folder, _, file = flags["config"].rpartition("/")
    assert mounts[folder]["name"] == "config" and file in made.objects["ConfigMap"]["data"]
    for key in ("model", "adapter-dir"):
        assert mounts[made.config[key]]["readOnly"]
    root = made.config["adapter-root"] + "/"
    assert made.config["adapter-dir"].startswith(root)
    assert ("state-dir" in flags) == (component == "tuning")
    if component == "tuning":  # written to, under the root (server/tuning/README.md), by one process
        assert flags["state-dir"].startswith(root) and not mounts[flags["state-dir"]].get("readOnly")
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in made.pod["volumes"] if "persistentVolumeClaim" in volume}
        assert claims[mounts[flags["state-dir"]]["name"]] == made.objects["PersistentVolumeClaim"]["metadata"]["name"]
        assert made.deployment["replicas"] == 1 and made.deployment["strategy"] == {"type": "Recreate"}
    volumes = {volume["name"] for volume in made.pod["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == volumes
    (config,) = (volume["configMap"]["name"] for volume in made.pod["volumes"] if "configMap" in volume)
    assert config == made.objects["ConfigMap"]["metadata"]["name"] != "lorad", "another configuration rolls the pods"


@every_form
def test_a_pod_has_time_to_start_and_to_end(form, component):
    made = Rendered(form, component)
    wait = float(made.container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert made.pod["terminationGracePeriodSeconds"] >= wait + made.config["drain-seconds"] + 10
    assert made.deployment["progressDeadlineSeconds"] > seconds_to_start(made.container)
    assert made.container["startupProbe"]["httpGet"]["path"] == made.container["readinessProbe"]["httpGet"]["path"] == "/health"
    # Whatever ends it (70: a lost device), it starts again.
    assert made.pod.get("restartPolicy", "Always") == "Always"


@every_form
def test_replicas_can_be_drained_one_at_a_time(form, component):
    budget = Rendered(form, component).objects["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1 and "minAvailable" not in budget


def test_on_cpus_threads_are_whole_cores_and_memory_holds_the_pool():
    made = Rendered("base")
    resources = made.container["resources"]
    assert resources["requests"] == resources["limits"] and int(resources["limits"]["cpu"]) >= 1
    assert bytes_of(resources["limits"]["memory"]) >= bytes_of(made.config["memory-bytes"]) + GIB


@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_on_a_gpu_a_pod_has_one_and_room_for_what_the_host_keeps(component):
    made, base = Rendered("gpu", component), Rendered("base", component)
    resources = made.container["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == 1 and "cpu" not in resources["limits"]
    assert made.config["threads"] == int(resources["requests"]["cpu"]) < int(base.container["resources"]["requests"]["cpu"])
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert bytes_of(resources["limits"]["memory"]) >= bytes_of(made.config["host-adapter-bytes"]) + 8 * GIB
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in made.pod["tolerations"]
    strategy = made.deployment["strategy"]
    assert strategy["type"] == "Recreate" or strategy["rollingUpdate"]["maxSurge"] == 0
    assert seconds_to_start(made.container) > seconds_to_start(base.container)
    assert made.container["livenessProbe"]["httpGet"]["path"] == "/health"
    (cache,) = (entry["value"] for entry in made.container["env"] if entry["name"] == "CUDA_CACHE_PATH")
    assert not made.mounts()[cache].get("readOnly")


def test_a_gpu_changes_nothing_else():
    made, base = Rendered("gpu"), Rendered("base")
    own = {"device", "memory-bytes", "host-adapter-bytes", "threads"}
    assert {key: made.config[key] for key in made.config.keys() - own} == {key: base.config[key] for key in base.config.keys() - own}
    for kind in ("Service", "NetworkPolicy", "PodDisruptionBudget"):
        assert made.objects[kind] == base.objects[kind]
    for key in ("securityContext", "automountServiceAccountToken", "nodeSelector", "topologySpreadConstraints"):
        assert made.pod[key] == base.pod[key]
    assert made.container["securityContext"] == base.container["securityContext"]


def test_images_are_those_that_the_container_file_builds():
    version = re.search(r"project\(lorad VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text()).group(1)
    built = re.findall(r"^#   podman build (.*) -t (\S+) \.$", CONTAINERFILE, re.M)
    assert {image: "--build-arg CUDA=1" in arguments for arguments, image in built} == {f"lorad:{version}": False, f"lorad:{version}-cuda": True}
    assert Rendered("base").container["image"] == f"lorad:{version}"
    assert Rendered("gpu").container["image"] == f"lorad:{version}-cuda"
    user = Rendered("base").pod["securityContext"]["runAsUser"]
    assert f"--uid {user} " in CONTAINERFILE and f"USER {user}:{user}" in CONTAINERFILE


@pytest.mark.parametrize("form", FORMS)
def test_replicas_follow_metrics_that_exist_under_the_job_that_is_scraped(form, daemon, build_dir):
    made = Rendered(form, "autoscale")
    scaled, monitor = made.objects["ScaledObject"]["spec"], made.objects["PodMonitor"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == made.objects["Deployment"]["metadata"]["name"]
    assert "replicas" not in made.deployment
    (trigger,) = scaled["triggers"]
    names = {re.split(r"[{ ]", line)[0] for line in daemon.http("/metrics")[1].splitlines()}
    wanted = metrics_of(trigger["metadata"]["query"])
    assert wanted and wanted <= names
    job = made.deployment["template"]["metadata"]["labels"][monitor["jobLabel"]]
    assert trigger["metadata"]["query"].count(f'{{job="{job}"}}') == len(wanted)
    assert f'up{{job="{job}"}}' in (ROOT / "deploy/prometheus/lorad-alerts.yml").read_text()
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["metrics"]
    text = subprocess.run([build_dir / "bin/lorad", "--help"], capture_output=True, text=True, check=True).stdout
    seats = int(re.search(r"--max-sequences INT=(\d+)", text).group(1))
    assert 0 < int(trigger["metadata"]["threshold"]) < seats


@every_form
def test_names_follow_a_prefix_and_a_suffix(form, component):
    made = Rendered(form, component, namePrefix="sql-", nameSuffix="-eu")
    assert all(thing["metadata"]["name"].startswith("sql-lorad") and "-eu" in thing["metadata"]["name"] for thing in made.objects.values())
    (config,) = (volume["configMap"]["name"] for volume in made.pod["volumes"] if "configMap" in volume)
    assert config == made.objects["ConfigMap"]["metadata"]["name"]
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in made.pod["volumes"] if "persistentVolumeClaim" in volume}
    of_lorad = {made.objects["PersistentVolumeClaim"]["metadata"]["name"]} if component == "tuning" else set()
    assert claims == {"lorad-model", "lorad-adapters"} | of_lorad, "the user's own claims keep their names"
    if component == "autoscale":
        assert made.objects["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == made.objects["Deployment"]["metadata"]["name"]


def test_the_alerts_become_a_rule_of_the_operator_by_the_command_of_the_readme():
    (command,) = re.findall(r"^(\{ printf .*PrometheusRule.*\}) \| kubectl", (ROOT / "deploy/README.md").read_text(), re.M)
    made = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    rule = yaml.safe_load(made)
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/lorad-alerts.yml").read_text())


def test_the_readme_names_every_folder():
    text = (ROOT / "deploy/README.md").read_text()
    for path in FOLDER.iterdir():
        assert f"kubernetes/{path.name}" in text or f"../{path.name}" in text, path
    assert all(rendered_text(form) for form in FORMS)
