"""A training as a TrainJob of Kubeflow Trainer, version 2.3 or later.

Its runtime ``torch-distributed``, which comes with it, has the pods; a TrainJob changes what it is
allowed to. How often pods are restarted, for one, is the runtime's decision.
"""

from components.launch_train import pod
from components.launch_train.job import Job, Kind, Manifest, deadline_seconds, manifest_of
from components.launch_train.settings import is_set

_RUNTIME = "torch-distributed"
_CONTAINER = _REPLICATED_JOB = "node"  # as that runtime calls them
_MANAGER = "tzrec.pipelines/launch-train"
_NOT_IN_A_TRAINJOB = ("min_workers", "max_restarts", "backoff_limit", "ttl_seconds", "scheduling")
_TOKEN = {"name": "no-token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
"""Where a pod would find a token if nothing else was mounted there; it cannot be told otherwise."""


def manifest(job: Job) -> Manifest:
    """Returns the TrainJob.

    Raises:
        ValueError: A setting that only the runtime can have.
    """
    settings = job.settings
    for name in _NOT_IN_A_TRAINJOB:
        if is_set(settings, name):
            raise ValueError(
                f"worker_json.{name} is for a PyTorchJob; of a TrainJob its runtime, "
                f"{_RUNTIME}, decides that"
            )
    spec: Manifest = {
        "runtimeRef": {"name": _RUNTIME},
        "trainer": {
            "image": job.image,
            "command": list(job.command),
            "numNodes": job.num_workers,
            "numProcPerNode": job.num_processes,
            "env": pod.env(job),
        },
        "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": _patch(_pod_patch(job))}],
        "activeDeadlineSeconds": deadline_seconds(job),
    }
    if resources := pod.resources(job):  # of an empty object the operator makes one process a node
        spec["trainer"]["resourcesPerNode"] = resources
    if settings.queue:
        spec["suspend"] = True  # until Kueue admits it
    return manifest_of(TRAINJOB, job, spec)


def _patch(pod_template: Manifest) -> Manifest:
    """Returns a patch of the pods among all that a runtime consists of."""
    job_template = {"spec": {"template": pod_template}}
    replicated = {"name": _REPLICATED_JOB, "template": job_template}
    return {"template": {"spec": {"replicatedJobs": [replicated]}}}


def _pod_patch(job: Job) -> Manifest:
    container = {
        "name": _CONTAINER,
        "volumeMounts": [*pod.volume_mounts(), {**_TOKEN, "readOnly": True}],
        "securityContext": pod.container_security_context(job),
    }
    return {
        "metadata": {"labels": pod.labels(job), "annotations": pod.annotations(job)},
        "spec": {
            "containers": [container],
            "volumes": [*pod.volumes(job), {"name": _TOKEN["name"], "emptyDir": {}}],
            "securityContext": pod.security_context(),
            **pod.placement(job),
        },
    }


TRAINJOB = Kind(
    name="TrainJob",
    group="trainer.kubeflow.org",
    version="v1alpha1",
    plural="trainjobs",
    operator="Kubeflow Trainer 2.3 or later",
    container=_CONTAINER,
    succeeded="Complete",
    pods="jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name=node",
    first_pod=("batch.kubernetes.io/job-completion-index", "0"),
    manifest=manifest,
)
