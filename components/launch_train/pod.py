"""What the worker pods of every kind of job have in common, as parts of a manifest."""

from components.autoscalers import LEAVE_ALONE
from components.launch_train.job import Job, Manifest
from components.volume import MOUNT

_UID = 1000  # of the images
_SAVING_SECONDS = 330
"""Between SIGTERM and SIGKILL: torchrun's own time for a last checkpoint, and some more."""
_VOLUME, _SHM, _TMP = "runs", "shm", "tmp"


def labels(job: Job) -> dict[str, str]:
    """Returns the pods' labels."""
    return {**job.settings.labels, "app.kubernetes.io/name": "tzrec-pipelines"}


def annotations(job: Job) -> dict[str, str]:
    """Returns the pods' annotations: none gets a proxy beside it, with which it would never end."""
    return {"sidecar.istio.io/inject": "false", **LEAVE_ALONE, **job.settings.annotations}


def env(job: Job) -> list[Manifest]:
    """Returns the container's environment; what the user sets takes the place of our own."""
    values = {**job.env, **job.settings.env}
    secrets = {name: key for name, key in job.secret_env.items() if name not in values}
    return [
        *({"name": name, "value": value} for name, value in values.items()),
        *(
            {
                "name": name,
                "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}},
            }
            for name, (secret, key) in secrets.items()
        ),
    ]


def resources(job: Job) -> Manifest:
    """Returns the container's resources: what it may use is reserved for it."""
    amounts = dict(job.settings.resources)
    return {"limits": amounts, "requests": dict(amounts)} if amounts else {}


def security_context() -> Manifest:
    """Returns the pod's security context."""
    return {
        "runAsUser": _UID,
        "runAsGroup": _UID,
        "runAsNonRoot": True,
        "fsGroup": _UID,
        # A volume of many files is not walked through each time that a pod starts.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security_context(job: Job) -> Manifest:
    """Returns the container's security context."""
    added = {"add": ["IPC_LOCK"]} if job.settings.ipc_lock else {}
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **added},
    }


def volumes(job: Job) -> list[Manifest]:
    """Returns the pod's volumes."""
    return [
        {"name": _VOLUME, "persistentVolumeClaim": {"claimName": job.volume}},
        {"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": job.settings.shm_size}},
        {"name": _TMP, "emptyDir": {}},
    ]


def volume_mounts() -> list[Manifest]:
    """Returns where the container finds its volumes."""
    return [
        {"name": _VOLUME, "mountPath": MOUNT},
        {"name": _SHM, "mountPath": "/dev/shm"},
        {"name": _TMP, "mountPath": "/tmp"},
    ]


def placement(job: Job) -> Manifest:
    """Returns those fields of the pod that say where and as whom it runs, and how it ends."""
    settings = job.settings
    fields = {
        "nodeSelector": dict(settings.node_selector),
        "tolerations": list(settings.tolerations),
        "affinity": dict(settings.affinity),
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "serviceAccountName": settings.service_account,
        "terminationGracePeriodSeconds": _SAVING_SECONDS,
    }
    return {name: value for name, value in fields.items() if value}
