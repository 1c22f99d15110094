"""Trains the model in several pods of a cluster, as a job that this step makes and watches."""

import dataclasses
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any, TypedDict

from components import secrets
from components import volume as volumes
from components.images import PULL_SECRETS
from components.launch_train import settings
from components.launch_train.cluster import Cluster, connect
from components.launch_train.job import Job, Kind, Manifest, job_name
from components.launch_train.life_cycle import JobRun
from components.launch_train.pytorchjob import PYTORCHJOB
from components.launch_train.trainjob import TRAINJOB
from components.lineage import IMAGE_VARIABLE
from components.steps import StepFailedError
from components.train.tracked import tracked
from tzrec_core.run_dir import RunDir
from tzrec_core.training import finished

log = logging.getLogger(__name__)

_POD_VARIABLE = "KFP_POD_NAME"
# What this step's own container has been told of MLflow, and is no secret.
_MLFLOW_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_WORKSPACE")
_WITH_CREDENTIALS = re.compile(r"\s*[\w+.-]+://[^/?#]*@")
_INTERVAL_SECONDS = 3.0
_MARKER_SECONDS = 60.0
"""A network's disk may show what another machine has written somewhat later."""


class Outputs(TypedDict):
    """What KFP gets."""

    checkpoints: dict[str, Any]
    checkpoint_step: int


def launch_train(
    *,
    run_dir: str,
    launcher: str,
    pipeline_run_id: str = "",
    num_workers: int = 1,
    num_processes: int = 1,
    image: str = "",
    volume: str = volumes.CLAIM,
    mlflow_secret: str = secrets.MLFLOW_NAME,
    object_store_secret: str = secrets.OBJECT_STORE_NAME,
    worker_json: str = "",
) -> Outputs:
    """Trains on the prepared rows, like ``train``, but in ``num_workers`` pods.

    An attempt that finds the job of an earlier one goes on watching it. The job of an earlier run,
    which nobody watches, is stopped first: it saves its work, which this training goes on from.

    Args:
        run_dir: A folder on the volume that prepare_data has filled; gets ``checkpoints``.
        launcher: The kind of job: pytorchjob or trainjob.
        pipeline_run_id: What tells the attempts of one pipeline run from those of another; empty:
            the one that ``run_dir`` has, which is its last.
        num_workers: Pods.
        num_processes: Ranks in each pod.
        image: Of the pods; by default the image of the pipeline's steps, $TZREC_IMAGE.
        volume: Claim of the volume that run_dir is on.
        mlflow_secret: Secret with MLflow's user and password, or token; need not be there.
        object_store_secret: Secret with an object store's keys; need not be there.
        worker_json: More about the pods, as JSON: resources, placement, limits, queue.

    Raises:
        ValueError: A parameter is wrong, the run directory is not prepared, or there is no cluster.
        StepFailedError: The job failed, was deleted or took too long, or the cluster refuses.
    """
    kind = _kind(launcher)
    for name, number in (("num_workers", num_workers), ("num_processes", num_processes)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    chosen = settings.parse(worker_json)
    for variables in (os.environ, chosen.env):
        _check_tracking_uri(variables, mlflow_secret)
    if not chosen.image_pull_secrets:
        chosen = dataclasses.replace(chosen, image_pull_secrets=PULL_SECRETS)
    gpus = chosen.resources.get(settings.GPU)
    if gpus is not None and num_processes > int(gpus):
        raise ValueError(f"{num_processes} processes share {gpus} {settings.GPU} of a worker")
    image = image or os.environ.get(IMAGE_VARIABLE, "")
    if not image:
        raise ValueError(f"image is empty, and so is {IMAGE_VARIABLE}")
    place = RunDir(run_dir)
    if not place.path.is_relative_to(volumes.MOUNT):
        raise ValueError(
            f"run_dir {place.path} is not below {volumes.MOUNT}, where workers find the volume"
        )
    info = place.read_info()
    cluster = connect()
    job = Job(
        name=job_name(volume, str(place.path)),
        run_id=pipeline_run_id or info.pipeline_run_id,
        namespace=cluster.namespace,
        image=image,
        command=["python3", "-u", "-m", "components.train.worker", f"--run_dir={place.path}"],
        num_workers=num_workers,
        num_processes=num_processes,
        volume=volume,
        secret_env=_secret_env(mlflow_secret, object_store_secret),
        settings=chosen,
    )
    kind.manifest(job)  # its errors come before a run in MLflow
    tags = {"launcher": launcher, "num_workers": num_workers, "num_processes": num_processes}
    with tracked(place, {**tags, "image": image, "job": job.name}) as run:
        env = {name: os.environ[name] for name in _MLFLOW_VARIABLES if os.environ.get(name)}
        if run.run_id is not None:
            env["MLFLOW_RUN_ID"] = run.run_id
        job = dataclasses.replace(job, env=env, owner=_own_pod(cluster))
        JobRun(
            cluster,
            kind,
            kind.manifest(job),
            timeout=chosen.timeout_seconds,
            interval=_INTERVAL_SECONDS,
        ).run(
            is_done=lambda: _finished_step(place) is not None,
            prepare=lambda: finished.unmark(place.checkpoints),
        )
        step = _confirmed_step(place, f"{kind.name} {job.name}")
    checkpoints = {"path": str(place.checkpoints), "step": step}
    return {"checkpoints": checkpoints, "checkpoint_step": step}


def _kind(launcher: str) -> Kind:
    match launcher:
        case "pytorchjob":
            return PYTORCHJOB
        case "trainjob":
            return TRAINJOB
    raise ValueError(f"launcher must be pytorchjob or trainjob, got {launcher!r}")


def _check_tracking_uri(variables: Mapping[str, str], mlflow_secret: str) -> None:
    """Refuses credentials where they would be in the job's manifest, which many may read."""
    if _WITH_CREDENTIALS.match(variables.get("MLFLOW_TRACKING_URI", "")):
        raise ValueError(
            "MLFLOW_TRACKING_URI has a user or a password in it, which whoever may see the job "
            f"could read: they belong into the secret {mlflow_secret}, as its keys username and "
            "password, or token"
        )


def _secret_env(mlflow_secret: str, object_store_secret: str) -> dict[str, tuple[str, str]]:
    """Returns which key of which secret each variable of a worker is taken from."""
    return {
        variable: (secret, key)
        for secret, keys in (
            (mlflow_secret, secrets.MLFLOW_SECRET),
            (object_store_secret, secrets.OBJECT_STORE_SECRET),
        )
        for variable, key in keys.items()
    }


def _own_pod(cluster: Cluster) -> Manifest | None:
    """Returns a reference to the pod of this step, with which the job is to be deleted."""
    name = os.environ.get(_POD_VARIABLE)
    if not name:
        return None
    owner = cluster.owner(name)
    if owner is None:
        log.warning("The job is not deleted with this step's pod: there is no pod %s", name)
    return owner


def _finished_step(place: RunDir) -> int | None:
    """Returns the last checkpoint of a training that is finished; None if it is not."""
    marker = finished.read(place.checkpoints)
    if marker is None or marker.global_step not in place.checkpoint_steps():
        return None
    return marker.global_step


def _confirmed_step(place: RunDir, title: str) -> int:
    """Returns what rank 0 has written down at the end, without which no success is believed.

    An operator calls a job a success as soon as one of its pods is.
    """
    deadline = time.monotonic() + _MARKER_SECONDS
    while (step := _finished_step(place)) is None:
        if time.monotonic() > deadline:
            raise StepFailedError(
                f"{title} is said to have succeeded, but in {place.checkpoints} there is no "
                f"{finished.FILE} with its last checkpoint: rank 0 has not come to the end, "
                "or it writes to another volume"
            )
        time.sleep(1)
    return step
