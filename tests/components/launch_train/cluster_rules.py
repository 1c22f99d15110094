"""What a cluster checks of a manifest, without a cluster: schemas and the operators' own rules."""

import re

import jsonschema
import kubernetes_validate

from tests.kubernetes.crd import pytorchjob_schema

KUBERNETES = "1.37"
_PYTORCHJOB = jsonschema.Draft7Validator(pytorchjob_schema())


def check_pod(template):
    """Checks a pod template strictly: no field may be unknown."""
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def check_pytorchjob(job):
    """Checks a PyTorchJob against its schema and the rules of the operator's webhook (v1.9)."""
    errors = [f"{'.'.join(map(str, e.path))}: {e.message}" for e in _PYTORCHJOB.iter_errors(job)]
    assert not errors, errors
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job["metadata"]["name"])  # DNS-1035
    spec = job["spec"]
    # One of the two says how many processes a pod has, not both.
    assert "nProcPerNode" not in spec["elasticPolicy"]
    assert set(spec["pytorchReplicaSpecs"]) == {"Worker"}
    template = spec["pytorchReplicaSpecs"]["Worker"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["name"] == "pytorch"
    assert container["image"]
    check_pod(template)
