"""What kubectl makes of deploy/kubernetes, by the schemas of several versions of Kubernetes. Objects of the operators that
autoscale/ wants (ScaledObject, PodMonitor) have none there."""

import json
import subprocess

import pytest
from conftest import ROOT
from kubernetes_files import COMPONENTS, FORMS, needs_kubectl, rendered_text

VERSIONS = ["1.30", "1.34", "1.37"]
NO_SCHEMA = {"ScaledObject", "PodMonitor"}
CHECK = """
import json, sys
import kubernetes_validate
import yaml

results = []
for document in yaml.safe_load_all(sys.stdin):
    for version in sys.argv[1:]:
        try:
            kubernetes_validate.validate(document, version, strict=True)
            result = "valid"
        except kubernetes_validate.SchemaNotFoundError:
            result = "no schema"
        except kubernetes_validate.ValidationError as error:
            result = error.message
        results.append([document["kind"], result])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def python():
    return subprocess.run([ROOT / "scripts/kubernetes-env"], capture_output=True, text=True, check=True).stdout.strip()


def check(python, text):
    done = subprocess.run([python, "-c", CHECK, *VERSIONS], input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_kubectl
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_every_object_is_valid(python, form, component):
    results = check(python, rendered_text(form, component))
    assert len(results) >= 5 * len(VERSIONS)
    for kind, result in results:
        assert result == ("no schema" if kind in NO_SCHEMA else "valid"), kind


@needs_kubectl
def test_a_key_that_is_not_known_is_found(python):
    text = rendered_text("gpu")
    assert text.count("readinessProbe:") == 1
    results = check(python, text.replace("readinessProbe:", "readynessProbe:"))
    assert sum("readynessProbe" in result for _, result in results) == len(VERSIONS)
