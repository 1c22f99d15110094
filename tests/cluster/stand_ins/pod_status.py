"""The status that a kubelet writes into a pod."""

import datetime
from collections.abc import Mapping
from typing import Any

ENDED = ("Succeeded", "Failed")


def now() -> str:
    """Returns the time as Kubernetes writes it."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def status(
    pod: Mapping[str, Any],
    *,
    phase: str,
    state: Mapping[str, Any],
    last_state: Mapping[str, Any],
    restarts: int,
    addresses: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the status of a pod with one container."""
    container = pod["spec"]["containers"][0]
    is_ready = "running" in state
    return {
        "phase": phase,
        "startTime": pod.get("status", {}).get("startTime", now()),
        **addresses,
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": str(is_ready)},
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": container["image"],
                "ready": is_ready,
                "started": is_ready,
                "restartCount": restarts,
                "state": state,
                "lastState": last_state,
            }
        ],
    }


def terminated(inspected: Mapping[str, Any], last_lines: str) -> dict[str, Any]:
    """Returns the state of a container that has ended.

    Args:
        inspected: What Docker says of the container's state.
        last_lines: Of its log, for a container that wants them.
    """
    code = inspected["ExitCode"]
    reason = "OOMKilled" if inspected["OOMKilled"] else "Completed" if code == 0 else "Error"
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "startedAt": f"{inspected['StartedAt'][:19]}Z",
            "finishedAt": f"{inspected['FinishedAt'][:19]}Z",
            **({"message": last_lines} if last_lines else {}),
        }
    }
