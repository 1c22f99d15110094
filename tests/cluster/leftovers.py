"""Finds what a session of these tests, killed before it could clean up, has left in Docker."""

import contextlib
import os
from typing import Any

import docker
import docker.errors
import psutil

LABEL = "tzrec-pipelines.cluster-tests"


def labels() -> dict[str, str]:
    """Returns the labels of everything that this process makes in Docker."""
    return {LABEL: f"{os.getpid()}-{psutil.Process().create_time():.0f}"}


def remove(engine: docker.DockerClient, *, mine: bool) -> None:
    """Removes the containers and networks of this process, or those of processes that are gone."""
    found: list[Any] = [
        *engine.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True),
        *engine.networks.list(filters={"label": LABEL}),
    ]
    for one in found:
        owner = one.labels[LABEL] if hasattr(one, "labels") else one.attrs["Labels"][LABEL]
        if (owner == labels()[LABEL]) if mine else not _lives(owner):
            with contextlib.suppress(docker.errors.NotFound):
                one.remove(**({"force": True} if hasattr(one, "kill") else {}))


def _lives(owner: str) -> bool:
    pid, started = owner.split("-")
    try:
        return f"{psutil.Process(int(pid)).create_time():.0f}" == started
    except psutil.NoSuchProcess:
        return False
