"""What Docker has to be told to run a container of a pod as a kubelet would run it."""

import os
from collections.abc import Mapping
from typing import Any

from docker.types import Mount

from tests.cluster.stand_ins.volumes import Folder, Memory, NotPossibleError, quantity

_SHARED_MEMORY = "/dev/shm"


def arguments(
    pod: Mapping[str, Any], volumes: Mapping[str, Folder | Memory], values: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the arguments of Docker's ``create`` for the only container of a pod.

    Args:
        pod: As the API server has it.
        volumes: See ``Volumes.of``.
        values: Of the environment.

    Raises:
        NotPossibleError: No node has what the container wants.
    """
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    pod_security = spec.get("securityContext", {})
    # What the container says comes before what the pod says.
    security = {**pod_security, **container.get("securityContext", {})}
    result: dict[str, Any] = {
        "image": container["image"],
        "command": container.get("args"),
        "entrypoint": container.get("command"),
        "environment": dict(values),
        "hostname": pod["metadata"]["name"],
        "working_dir": container.get("workingDir"),
        "mounts": [],
        "tmpfs": {},
        "group_add": [str(pod_security["fsGroup"])] if "fsGroup" in pod_security else [],
        "read_only": security.get("readOnlyRootFilesystem", False),
        "cap_drop": security.get("capabilities", {}).get("drop", []),
        "cap_add": security.get("capabilities", {}).get("add", []),
        **_limits(container.get("resources", {}).get("limits", {})),
    }
    if "runAsUser" in security:
        group = security.get("runAsGroup")
        result["user"] = f"{security['runAsUser']}" + ("" if group is None else f":{group}")
    if not security.get("allowPrivilegeEscalation", True):
        result["security_opt"] = ["no-new-privileges"]
    for mount in container.get("volumeMounts", []):
        path, volume = mount["mountPath"], volumes[mount["name"]]
        if isinstance(volume, Folder):
            result["mounts"].append(_bound(mount, volume))
        elif path == _SHARED_MEMORY:  # Docker has one of its own, whose size can be chosen
            result["shm_size"] = volume.size
        else:
            size = "" if volume.size is None else f",size={volume.size}"
            result["tmpfs"][path] = f"rw,exec,nosuid,nodev,mode=1777{size}"
    return result


def _bound(mount: Mapping[str, Any], volume: Folder) -> Mount:
    source = volume.path / mount.get("subPath", "")
    source.mkdir(parents=True, exist_ok=True)
    return Mount(
        mount["mountPath"],
        str(source),
        "bind",
        read_only=volume.read_only or mount.get("readOnly", False),
    )


def _limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in limits.items():
        match name:
            case "memory":
                result["mem_limit"] = quantity(value)
            case "cpu":
                text = str(value)
                cpus = int(text[:-1]) / 1000 if text.endswith("m") else float(text)
                # Docker refuses more than there are; Kubernetes lets a limit be any.
                result["nano_cpus"] = int(min(cpus, os.cpu_count() or 1) * 1e9)
            case _:
                raise NotPossibleError("Unschedulable", f"0/1 nodes are available: no {name}")
    return result
