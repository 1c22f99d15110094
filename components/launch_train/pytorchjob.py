"""A training as a PyTorchJob of the Kubeflow training operator."""

from components.launch_train import pod
from components.launch_train.job import Job, Kind, Manifest, deadline_seconds, manifest_of

_CONTAINER = "pytorch"  # by this name the operator knows it
_PORT = 23456
_READ_SECONDS = 300
"""How long a pod waits for the first one; torchrun's own minute is less than to pull an image."""
_JOIN_SECONDS = 24 * 60 * 60
"""How long pods wait for those that no node has room for yet. After torchrun's own ten minutes they
would end, and be restarted, until the job has failed."""


def manifest(job: Job) -> Manifest:
    """Returns the PyTorchJob: elastic, so that all pods are alike and torchrun restarts ranks.

    Raises:
        ValueError: ``min_workers`` is more than there are.
    """
    settings = job.settings
    min_workers = settings.min_workers or job.num_workers
    if min_workers > job.num_workers:
        raise ValueError(
            f"worker_json.min_workers is {min_workers}, but num_workers is {job.num_workers}"
        )
    backoff_limit = settings.backoff_limit
    run_policy: Manifest = {
        # Whatever runs when the job is over would keep its accelerators.
        "cleanPodPolicy": "Running",
        "backoffLimit": 3 * job.num_workers if backoff_limit is None else backoff_limit,
        "ttlSecondsAfterFinished": settings.ttl_seconds,
        "activeDeadlineSeconds": deadline_seconds(job),
    }
    if settings.queue:
        run_policy["suspend"] = True  # until Kueue admits it
    if settings.scheduling.get("gang"):
        run_policy["schedulingPolicy"] = {"minAvailable": min_workers}
    spec = {
        "nprocPerNode": str(job.num_processes),
        "runPolicy": run_policy,
        "elasticPolicy": {
            "rdzvBackend": "c10d",
            "rdzvId": job.name,
            "rdzvConf": [
                {"key": "read_timeout", "value": str(_READ_SECONDS)},
                {"key": "join_timeout", "value": str(_JOIN_SECONDS)},
            ],
            "minReplicas": min_workers,
            "maxReplicas": job.num_workers,
            "maxRestarts": settings.max_restarts,
        },
        "pytorchReplicaSpecs": {
            "Worker": {
                "replicas": job.num_workers,
                "restartPolicy": "OnFailure",
                "template": _pod(job),
            }
        },
    }
    return manifest_of(PYTORCHJOB, job, spec)


def _pod(job: Job) -> Manifest:
    container = {
        "name": _CONTAINER,
        "image": job.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(job.command),
        "ports": [{"name": "pytorchjob-port", "containerPort": _PORT}],
        "env": pod.env(job),
        "resources": pod.resources(job),
        "volumeMounts": pod.volume_mounts(),
        "securityContext": pod.container_security_context(job),
    }
    return {
        "metadata": {"labels": pod.labels(job), "annotations": pod.annotations(job)},
        "spec": {
            "containers": [container],
            "volumes": pod.volumes(job),
            "securityContext": pod.security_context(),
            "automountServiceAccountToken": False,
            **pod.placement(job),
        },
    }


PYTORCHJOB = Kind(
    name="PyTorchJob",
    group="kubeflow.org",
    version="v1",
    plural="pytorchjobs",
    operator="the Kubeflow training operator",
    container=_CONTAINER,
    succeeded="Succeeded",
    pods="training.kubeflow.org/job-name={name}",
    first_pod=("training.kubeflow.org/replica-index", "0"),
    manifest=manifest,
)
