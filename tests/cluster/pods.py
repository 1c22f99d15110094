"""Pods and jobs as tests write them."""

from collections.abc import Mapping, Sequence
from typing import Any


def pod(
    name: str, image: str, command: Sequence[str], *, container: Mapping[str, Any] = {}, **spec: Any
) -> dict[str, Any]:
    """Returns a pod with one container, which is run once unless ``spec`` says otherwise."""
    main = {"name": "main", "image": image, **container}
    if command:  # else the image's own
        main["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [main], **spec},
    }


def elastic_job(
    name: str, image: str, command: Sequence[str], *, policy: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a PyTorchJob of two workers."""
    main = {"name": "pytorch", "image": image, "command": list(command)}
    worker = {
        "replicas": 2,
        "restartPolicy": "OnFailure",
        "template": {
            "spec": {
                "containers": [main],
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
            }
        },
    }
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {
            "nprocPerNode": "1",
            "elasticPolicy": {"maxRestarts": 0, "rdzvId": name},
            "runPolicy": dict(policy),
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }
