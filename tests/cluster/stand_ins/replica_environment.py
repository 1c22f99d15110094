"""The variables that training-operator v1.9 gives to a replica (pkg/controller.v1/pytorch)."""

from collections.abc import Mapping
from typing import Any

_PORT = 23456


def defaulted(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the spec of a PyTorchJob with what the operator takes for what it leaves out."""
    replicas = {
        kind: {"replicas": 1, "restartPolicy": "OnFailure", **of_kind}
        for kind, of_kind in spec["pytorchReplicaSpecs"].items()
    }
    result = {
        **spec,
        "runPolicy": {"cleanPodPolicy": "None", **spec.get("runPolicy", {})},
        "pytorchReplicaSpecs": replicas,
    }
    elastic = spec.get("elasticPolicy")
    if elastic is not None:
        workers = replicas["Worker"]["replicas"]
        largest = elastic.get("maxReplicas", workers)
        smallest = elastic.get("minReplicas", largest)
        result["elasticPolicy"] = {**elastic, "minReplicas": smallest, "maxReplicas": largest}
    if elastic is None or "nProcPerNode" not in elastic:
        result.setdefault("nprocPerNode", "auto")
    return result


def variables(name: str, spec: Mapping[str, Any], kind: str, index: int) -> dict[str, str]:
    """Returns the variables of one replica.

    Args:
        name: The job's.
        spec: See ``defaulted``.
        kind: "Master" or "Worker".
        index: Of the replica among those of its kind.
    """
    replicas = spec["pytorchReplicaSpecs"]
    total = sum(of_kind["replicas"] for of_kind in replicas.values())
    processes = spec.get("nprocPerNode")
    result = {"PYTHONUNBUFFERED": "1", "PET_NNODES": str(total)}
    if "Master" in replicas:
        port = str(_port(replicas["Master"]))
        rank = str(index + (kind == "Worker"))
        per_node = int(processes) if str(processes).isdigit() else 1
        for prefix in ("", "PET_"):
            result[f"{prefix}MASTER_ADDR"] = f"{name}-master-0"
            result[f"{prefix}MASTER_PORT"] = port
        result.update(WORLD_SIZE=str(total * per_node), RANK=rank, PET_NODE_RANK=rank)
    if processes is not None:
        result["PET_NPROC_PER_NODE"] = processes
    if "elasticPolicy" in spec:
        result.update(_elastic(name, spec["elasticPolicy"], replicas["Worker"]))
    return result


def _elastic(name: str, elastic: Mapping[str, Any], worker: Mapping[str, Any]) -> dict[str, str]:
    host = elastic.get("rdzvHost", f"{name}-worker-0")
    result = {
        "PET_RDZV_ENDPOINT": f"{host}:{elastic.get('rdzvPort', _port(worker))}",
        "PET_RDZV_BACKEND": elastic.get("rdzvBackend", "c10d"),
        "PET_NNODES": f"{elastic['minReplicas']}:{elastic['maxReplicas']}",
    }
    for key, variable in (
        ("maxRestarts", "PET_MAX_RESTARTS"),
        ("nProcPerNode", "PET_NPROC_PER_NODE"),
        ("rdzvId", "PET_RDZV_ID"),
    ):
        if key in elastic:
            result[variable] = str(elastic[key])
    if elastic.get("standalone"):
        result["PET_STANDALONE"] = ""
    if "rdzvConf" in elastic:
        settings = [f"{setting['key']}={setting['value']}" for setting in elastic["rdzvConf"]]
        result["PET_RDZV_CONF"] = ",".join(settings)
    return result


def _port(replica: Mapping[str, Any]) -> int:
    for container in replica["template"]["spec"]["containers"]:
        if container["name"] == "pytorch":
            for port in container.get("ports", []):
                if port.get("name") == "pytorchjob-port":
                    return int(port["containerPort"])
    return _PORT
