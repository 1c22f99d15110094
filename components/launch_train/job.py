"""A distributed training as a cluster sees it, and what differs from one kind of job to another."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from components.launch_train.settings import Settings

Manifest = dict[str, Any]

MAX_SECONDS = 14 * 24 * 60 * 60
"""After which the step launch_train is ended, and a job for which no other time is set."""

_SLACK_SECONDS = 600
"""How much longer than the launcher the operator waits: it ends a job whose launcher is gone."""

RUN_ANNOTATION = "tzrec.pipelines/run"
"""Of a job: the pipeline run that has made it."""

_MAX_NAME = 45
"""Pods get longer names, which must fit into 63 characters."""
_HASH_LENGTH = 8


@dataclass(frozen=True)
class Job:
    """A training in several pods, each with the same number of processes.

    Attributes:
        name: Of the job; pods are named after it.
        run_id: Of the pipeline run.
        namespace: Of the job, its pods, claims and secrets.
        image: Of the pods.
        command: What each pod runs.
        num_workers: How many pods.
        num_processes: How many ranks in each.
        volume: Claim of the volume with the run directory.
        env: Environment variables.
        secret_env: Name and key of the secret that has the value of a variable.
        settings: What the user has set.
        owner: Reference to the object with which the job is to be deleted, if there is one.
    """

    name: str
    run_id: str
    namespace: str
    image: str
    command: Sequence[str]
    num_workers: int
    num_processes: int
    volume: str
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    owner: Manifest | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of job: how it is written, and how it tells what became of it.

    Attributes:
        name: As ``kind`` in a manifest.
        group: Of its API.
        version: Of its API.
        plural: As in its URL.
        operator: Who must be installed on a cluster for it.
        container: What the pods' container is called.
        succeeded: The condition of a job that has ended well; one that has not is ``Failed``.
        pods: The labels of a job's pods, with ``{name}`` for its name.
        first_pod: The label, and its value, that only the pod with rank 0 has besides.
        manifest: Writes a job of this kind; raises ValueError for a setting that it cannot have.
    """

    name: str
    group: str
    version: str
    plural: str
    operator: str
    container: str
    succeeded: str
    pods: str
    first_pod: tuple[str, str]
    manifest: Callable[[Job], Manifest]

    def selector(self, job_name: str) -> str:
        """Returns the label selector of the job's pods."""
        return self.pods.format(name=job_name)


def job_name(volume: str, run_dir: str) -> str:
    """Returns the name of the one job of its kind that trains in a run directory, whoever makes it.

    >>> job_name("tzrec-runs", "/runs/first")
    'tzrec-first-95ea4464'
    """
    readable = re.sub(r"[^a-z0-9]+", "-", PurePosixPath(run_dir).name.lower())
    digest = hashlib.sha256(f"{volume}\n{run_dir}".encode()).hexdigest()[:_HASH_LENGTH]
    stem = f"tzrec-{readable}"[: _MAX_NAME - _HASH_LENGTH - 1].rstrip("-")
    return f"{stem}-{digest}"


def deadline_seconds(job: Job) -> int:
    """Returns after how long the operator ends a job, so that none outlives its launcher for ever.

    A launcher that is killed deletes nothing, and its pod, the job's owner, may be kept.
    """
    timeout = job.settings.timeout_seconds
    return (MAX_SECONDS if timeout is None else timeout) + _SLACK_SECONDS


def manifest_of(kind: Kind, job: Job, spec: Manifest) -> Manifest:
    """Returns the manifest around a ``spec``."""
    labels = {**job.settings.labels, "app.kubernetes.io/name": "tzrec-pipelines"}
    if job.settings.queue:
        labels["kueue.x-k8s.io/queue-name"] = job.settings.queue
    metadata: Manifest = {
        "name": job.name,
        "namespace": job.namespace,
        "labels": labels,
        "annotations": {RUN_ANNOTATION: job.run_id},
    }
    if job.owner is not None:
        metadata["ownerReferences"] = [job.owner]
    return {
        "apiVersion": f"{kind.group}/{kind.version}",
        "kind": kind.name,
        "metadata": metadata,
        "spec": spec,
    }
