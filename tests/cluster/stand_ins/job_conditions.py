"""The conditions in the status of a PyTorchJob, as the operator keeps them."""

from collections.abc import Mapping
from typing import Any

from tests.cluster.stand_ins.pod_status import now

_MESSAGES = {
    "Created": "PyTorchJob {} is created.",
    "Running": "PyTorchJob {} is running.",
    "Suspended": "PyTorchJob {} is suspended.",
    "Succeeded": "PyTorchJob {} is successfully completed.",
}
_NOT_WITH = {
    "Running": {"Restarting", "Suspended"},
    "Restarting": {"Running"},
    "Suspended": {"Running"},
    "Succeeded": {"Running", "Restarting"},
    "Failed": {"Running", "Restarting"},
}
"""The conditions that are not true any more when another one becomes true."""


def is_true(status: Mapping[str, Any], kind: str) -> bool:
    """Returns whether the job is in a condition."""
    return any(
        condition["type"] == kind and condition["status"] == "True"
        for condition in status.get("conditions", [])
    )


def add(status: dict[str, Any], name: str, kind: str, message: str = "") -> None:
    """Makes a condition true, if it is not: the newest one is last."""
    if is_true(status, kind):
        return
    kept = []
    for condition in status["conditions"]:
        if condition["type"] in _NOT_WITH.get(kind, ()):
            condition = {**condition, "status": "False", "lastTransitionTime": now()}
        if condition["type"] != kind:
            kept.append(condition)
    added = {
        "type": kind,
        "status": "True",
        "reason": f"PyTorchJob{kind}",
        "message": message or _MESSAGES[kind].format(name),
        "lastUpdateTime": now(),
        "lastTransitionTime": now(),
    }
    status["conditions"] = [*kept, added]
