"""The definition of PyTorchJob, derived from the models of the official client packages.

The operator's own CustomResourceDefinition is in no package; ``kubeflow-training`` and
``kubernetes``, however, are generated from the same Go types and carry the type of every field.
"""

import inspect
import re
from typing import Any

import kubernetes.client.models as core_models
from kubeflow.training import models as training_models

GROUP, VERSION, PLURAL = "kubeflow.org", "v1", "pytorchjobs"

Schema = dict[str, Any]

_QUANTITIES = {"limits", "requests", "minResources", "sizeLimit", "divisor", "overhead"}
"""Fields whose values the models call strings; the API takes numbers too."""
_ENUMS = {
    "cleanPodPolicy": ["", "All", "Running", "None"],
    "restartPolicy of a replica": ["Always", "OnFailure", "Never", "ExitCode"],
    "rdzvBackend": ["c10d", "etcd", "etcd-v2"],
}
_NUMBER_OR_STRING = {"anyOf": [{"type": "integer"}, {"type": "number"}, {"type": "string"}]}


def pytorchjob_schema() -> Schema:
    """Returns the JSON schema of a PyTorchJob that we write; it refuses every unknown field."""
    return {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": f"{GROUP}/{VERSION}"},
            "kind": {"const": "PyTorchJob"},
            "metadata": _schema("V1ObjectMeta", structural=False),
            "spec": _spec(structural=False),
        },
    }


def pytorchjob_crd() -> dict[str, Any]:
    """Returns a CustomResourceDefinition, structural, so that an API server prunes and checks."""
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _spec(structural=True),
            "status": free,
        },
    }
    columns = [
        {"name": "State", "type": "string", "jsonPath": ".status.conditions[-1:].type"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "PyTorchJob",
                "listKind": "PyTorchJobList",
                "plural": PLURAL,
                "singular": "pytorchjob",
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def _spec(*, structural: bool) -> Schema:
    spec = _schema("KubeflowOrgV1PyTorchJobSpec", structural=structural)
    # The client wants a runPolicy, the operator does not.
    spec["required"] = ["pytorchReplicaSpecs"]
    properties = spec["properties"]
    # Of an API that is not in this client any more; we never write it.
    del properties["elasticPolicy"]["properties"]["metrics"]
    replica = properties["pytorchReplicaSpecs"]["additionalProperties"]["properties"]
    for field, values in (
        (properties["runPolicy"]["properties"]["cleanPodPolicy"], _ENUMS["cleanPodPolicy"]),
        (properties["elasticPolicy"]["properties"]["rdzvBackend"], _ENUMS["rdzvBackend"]),
        (replica["restartPolicy"], _ENUMS["restartPolicy of a replica"]),
    ):
        field["enum"] = values
    return spec


def _schema(type_name: str, *, structural: bool, field: str = "") -> Schema:
    """Returns the schema of a type as the models name it, which ``field`` has."""
    if match := re.fullmatch(r"(dict\(str, |list\[)(.*)[)\]]", type_name):
        items = _schema(match[2], structural=structural, field=field)
        if match[1] == "list[":
            return {"type": "array", "items": items}
        return {"type": "object", "additionalProperties": items}
    match type_name:
        case "str" if field in _QUANTITIES:
            return _number_or_string(structural)
        case "object" | "Quantity" | "K8sIoApimachineryPkgApiResourceQuantity":  # or a port
            return _number_or_string(structural)
        case "str":
            return {"type": "string"}
        case "int":
            return {"type": "integer"}
        case "float":
            return {"type": "number"}
        case "bool":
            return {"type": "boolean"}
        case "datetime":
            return {"type": "string", "format": "date-time"}
        case "V1ObjectMeta" if structural:
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if type_name.startswith("K8sIoApiAutoscaling"):
        return {"type": "object"}
    return _object(type_name, structural=structural)


def _object(type_name: str, *, structural: bool) -> Schema:
    model = getattr(training_models, type_name, None) or getattr(core_models, type_name)
    properties = {
        model.attribute_map[attribute]: _schema(
            of_type, structural=structural, field=model.attribute_map[attribute]
        )
        for attribute, of_type in model.openapi_types.items()
    }
    source = inspect.getsource(model)
    required = [
        name
        for attribute, name in model.attribute_map.items()
        if f"`{attribute}`, must not be `None`" in source
    ]
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    if not structural:
        schema["additionalProperties"] = False
    return schema


def _number_or_string(structural: bool) -> Schema:
    return {"x-kubernetes-int-or-string": True} if structural else dict(_NUMBER_OR_STRING)
