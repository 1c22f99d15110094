"""What a user may set of the worker pods: the JSON of ``worker_json``, checked."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from components.launch_train import models

GPU = "nvidia.com/gpu"
# Set by the operator, for torchrun.
_RESERVED_PREFIX = "PET_"

_UNITS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
_QUANTITY = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(sorted(_UNITS, reverse=True))})")
_RESOURCE = re.compile(r"cpu|memory|ephemeral-storage|hugepages-\w+|[a-z0-9.-]+/[\w.-]+")
_LABEL = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Settings:
    """How worker pods look and how long their job may last; ``parse`` makes them.

    Attributes:
        resources: What each pod is given and may not exceed, by Kubernetes' names.
        shm_size: Of /dev/shm, which counts as memory of the pod.
        node_selector: Labels that a node must have.
        tolerations: Taints that a node may have.
        affinity: Kubernetes' own message.
        env: More environment variables.
        labels: Of the job and its pods.
        annotations: Of the pods.
        image_pull_secrets: Names of secrets.
        service_account: Of the pods, which get no token of it; empty: the namespace's default.
        ipc_lock: Whether pods may pin memory, as RDMA needs.
        min_workers: With how many a training begins and goes on; None: with all.
        max_restarts: How often torchrun restarts the processes of a pod.
        backoff_limit: How often the pods of a job are restarted, all together; None: three times
            the number of workers.
        timeout_seconds: After which the launcher deletes a job that has begun; None: it does not,
            and the operator ends the job after ``job.MAX_SECONDS``.
        ttl_seconds: How long a finished job is kept.
        queue: Kueue's local queue.
        scheduling: ``gang``: start all pods at once or none.
    """

    resources: Mapping[str, str] = field(default_factory=dict)
    shm_size: str = "2Gi"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    image_pull_secrets: Sequence[str] = ()
    service_account: str = ""
    ipc_lock: bool = False
    min_workers: int | None = None
    max_restarts: int = 3
    backoff_limit: int | None = None
    timeout_seconds: int | None = None
    ttl_seconds: int = 24 * 60 * 60
    queue: str = ""
    scheduling: Mapping[str, bool] = field(default_factory=dict)


def parse(text: str) -> Settings:
    """Returns the settings of ``worker_json``; an empty text has none.

    Raises:
        ValueError: It is not JSON, a name is unknown, or a value is not what its name asks for.
    """
    try:
        given = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"worker_json is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"worker_json must be an object, got {text!r}")
    for name in given:
        if name not in _CHECKS:
            raise ValueError(f"worker_json has no {name!r}; there are {', '.join(_CHECKS)}")
    checked = {name: _CHECKS[name](f"worker_json.{name}", value) for name, value in given.items()}
    settings = Settings(**checked)
    memory = settings.resources.get("memory")
    if memory is not None and quantity(settings.shm_size) > quantity(memory):
        raise ValueError(
            f"worker_json.shm_size ({settings.shm_size}) is more than the memory of a worker "
            f"({memory}), which it is part of"
        )
    return settings


def quantity(text: str) -> Decimal:
    """Returns the number that a quantity of Kubernetes stands for.

    >>> quantity("1.5Gi") == 1.5 * 2**30, quantity("500m")
    (True, Decimal('0.500'))
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no quantity, such as 4, 500m or 16Gi")
    return Decimal(match[1]) * _UNITS[match[2]]


def is_set(settings: Settings, name: str) -> bool:
    """Returns whether a setting differs from its default."""
    return bool(getattr(settings, name) != getattr(Settings(), name))


def _quantity(where: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{where} must be a number or a text such as 16Gi, got {value!r}")
    try:
        number = quantity(str(value))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if number <= 0:
        raise ValueError(f"{where} must be more than 0, got {value!r}")
    return str(value)


def _resources(where: str, value: object) -> dict[str, str]:
    resources = {}
    for name, amount in _object(where, value).items():
        if not _RESOURCE.fullmatch(name):
            raise ValueError(
                f"{where} has no {name!r}; a resource is cpu, memory, ephemeral-storage, "
                f"hugepages-<size>, or of a device plugin, such as {GPU}"
            )
        resources[name] = _quantity(f"{where}.{name}", amount)
        if "/" in name and not resources[name].isdigit():
            raise ValueError(f"{where}.{name} must be a whole number, got {amount!r}")
    return resources


def _object(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {value!r}")
    return value


def _texts(where: str, value: object) -> dict[str, str]:
    for name, text in _object(where, value).items():
        if not isinstance(text, str):
            raise ValueError(f"{where}.{name} must be a text, got {text!r}")
    return _object(where, value)


def _labels(where: str, value: object) -> dict[str, str]:
    labels = _texts(where, value)
    for name, text in labels.items():
        if not _LABEL.fullmatch(name) or not _LABEL_VALUE.fullmatch(text):
            raise ValueError(f"{where}.{name} is no label of Kubernetes: {name!r}: {text!r}")
    return labels


def _annotations(where: str, value: object) -> dict[str, str]:
    annotations = _texts(where, value)
    for name in annotations:
        if not _LABEL.fullmatch(name):
            raise ValueError(f"{where}: {name!r} is no name of an annotation")
    return annotations


def _env(where: str, value: object) -> dict[str, str]:
    variables = _texts(where, value)
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{where}: {name!r} is no name of an environment variable")
        if name.startswith(_RESERVED_PREFIX):
            raise ValueError(f"{where}.{name} is the operator's: it tells torchrun what to do")
    return variables


def _tolerations(where: str, value: object) -> list[dict[str, Any]]:
    models.check(value, "list[V1Toleration]", where)
    assert isinstance(value, list)
    return value


def _affinity(where: str, value: object) -> dict[str, Any]:
    models.check(value, "V1Affinity", where)
    assert isinstance(value, dict)
    return value


def _name(where: str, value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{where} must be the name of an object, got {value!r}")
    return value


def _names(where: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list of names, got {value!r}")
    return [_name(f"{where}[{index}]", name) for index, name in enumerate(value)]


def _bool(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false, got {value!r}")
    return value


def _at_least(least: int) -> Callable[[str, object], int]:
    def check(where: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{where} must be a whole number, {least} or more, got {value!r}")
        return value

    return check


def _scheduling(where: str, value: object) -> dict[str, bool]:
    for name in _object(where, value):
        if name != "gang":
            raise ValueError(f"{where} has no {name!r}; there is gang")
    return {name: _bool(f"{where}.{name}", flag) for name, flag in _object(where, value).items()}


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "resources": _resources,
    "shm_size": _quantity,
    "node_selector": _labels,
    "tolerations": _tolerations,
    "affinity": _affinity,
    "env": _env,
    "labels": _labels,
    "annotations": _annotations,
    "image_pull_secrets": _names,
    "service_account": _name,
    "ipc_lock": _bool,
    "min_workers": _at_least(1),
    "max_restarts": _at_least(0),
    "backoff_limit": _at_least(0),
    "timeout_seconds": _at_least(1),
    "ttl_seconds": _at_least(0),
    "queue": _name,
    "scheduling": _scheduling,
}
assert {setting.name for setting in dataclasses.fields(Settings)} == _CHECKS.keys()
