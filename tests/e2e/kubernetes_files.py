"""deploy/kubernetes as kubectl makes it of its folders."""

import functools
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib

import pytest
import yaml
from conftest import ROOT

FOLDER = ROOT / "deploy/kubernetes"
FORMS = ("base", "gpu")
COMPONENTS = ("tuning", "autoscale")
UNITS = {"Ki": 10, "Mi": 20, "Gi": 30, "KiB": 10, "MiB": 20, "GiB": 30}


def has_kubectl():
    """1.21 is the first whose kustomize knows components; Debian 12 has 1.20."""
    if not shutil.which("kubectl"):
        return False
    done = subprocess.run(["kubectl", "version", "--client", "--output=json"], capture_output=True, text=True)
    version = re.search(r'"gitVersion": "v1\.(\d+)', done.stdout)
    return version is not None and int(version[1]) >= 21


needs_kubectl = pytest.mark.skipif(not has_kubectl(), reason="no kubectl of 1.21 or later here")


@functools.cache
def rendered_text(form, component=None, **own):
    """What `kubectl apply -k` would apply: of a form, or of a user's own folder that adds a component, or what is its `own`, to it."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(FOLDER, copy, dirs_exist_ok=True)
        mine = pathlib.Path(copy, "mine")
        mine.mkdir()
        components = [f"../{component}"] if component else []
        (mine / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [f"../{form}"], "components": components, **own}))
        return subprocess.run(["kubectl", "kustomize", mine], capture_output=True, text=True, check=True).stdout


class Rendered:
    """The objects by kind, and what most tests ask for."""

    def __init__(self, form, component=None, **own):
        documents = list(yaml.safe_load_all(rendered_text(form, component, **own)))
        self.objects = {document["kind"]: document for document in documents}
        assert len(self.objects) == len(documents), "a kind twice"
        self.deployment = self.objects["Deployment"]["spec"]
        self.pod = self.deployment["template"]["spec"]
        (self.container,) = self.pod["containers"]
        self.config = tomllib.loads(self.objects["ConfigMap"]["data"]["lorad.toml"])

    def mounts(self):
        return {mount["mountPath"]: mount for mount in self.container["volumeMounts"]}

    def ports(self):
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()
    return int(number) << UNITS[unit]


def port_of(address):
    return int(address.rsplit(":", 1)[1])


def seconds_to_start(container):
    probe = container["startupProbe"]
    return probe["periodSeconds"] * probe["failureThreshold"]
