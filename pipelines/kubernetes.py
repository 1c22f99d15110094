"""What Kubernetes gives to the container of each step; a run on this machine ignores it."""

from dataclasses import dataclass

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_channel import PipelineParameterChannel as Parameter

from components import secrets, volume
from components.autoscalers import LEAVE_ALONE
from components.images import PULL_SECRETS, RUNTIME_IMAGE
from pipelines import attempts

_UID = 1000  # of the images
_ON_ACCELERATORS = {"train", "evaluate"}
_PAUSE_SECONDS = 60
"""Before a step is tried again for the first time; later it is twice as long each time."""
_PENDING_SECONDS = 24 * 60 * 60
"""What an attempt may wait for a node, which no timeout counts."""


@dataclass(frozen=True)
class Settings:
    """The parameters of the training pipeline that are about Kubernetes."""

    volume: Parameter
    mlflow_config_map: Parameter
    mlflow_secret: Parameter
    object_store_secret: Parameter
    cpu_request: Parameter
    cpu_limit: Parameter
    memory_request: Parameter
    memory_limit: Parameter
    accelerator_type: Parameter
    accelerator_count: Parameter
    node_selector: Parameter
    tolerations: Parameter


def configure(task: dsl.PipelineTask, settings: Settings) -> None:
    """Gives a task all that its container needs of a cluster."""
    _mount(task, settings)
    _set_environment(task, settings)
    _set_resources(task, settings)
    kubernetes.add_node_selector_json(task, settings.node_selector)
    kubernetes.add_toleration_json(task, settings.tolerations)
    kubernetes.set_image_pull_secrets(task, list(PULL_SECRETS))
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_security_context(task, run_as_user=_UID, run_as_group=_UID, run_as_non_root=True)
    for name, value in LEAVE_ALONE.items():
        kubernetes.add_pod_annotation(task, name, value)
    timeout = attempts.timeouts()[task.name.replace("-", "_")]
    kubernetes.set_timeout(task, timeout)
    # Each step finds its own finished work in run_dir: to be tried again costs little, and to be
    # found in KFP's cache would leave run_dir empty.
    retries = attempts.retries()
    task.set_retry(
        retries,
        backoff_duration=f"{_PAUSE_SECONDS}s",
        backoff_factor=2.0,
        backoff_max_duration=f"{_all_attempts(timeout, retries)}s",
    )
    task.set_caching_options(False)


def _all_attempts(timeout: int, retries: int) -> int:
    """Returns more than the seconds that all attempts of a step, and the pauses, may take.

    Argo ends whatever is tried again by then; kfp's own limit is one hour.
    """
    return (1 + retries) * (timeout + _PENDING_SECONDS) + (_PAUSE_SECONDS << retries)


def _mount(task: dsl.PipelineTask, settings: Settings) -> None:
    kubernetes.mount_pvc(task, pvc_name=settings.volume, mount_path=volume.MOUNT)
    # The 64 MiB that a container has else are too few for the ranks of a training. Without a size
    # the limit is that of the memory.
    kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory")


def _set_environment(task: dsl.PipelineTask, settings: Settings) -> None:
    task.set_env_variable(volume.RUNS_VARIABLE, volume.MOUNT)
    task.set_env_variable("TZREC_IMAGE", RUNTIME_IMAGE)
    if PULL_SECRETS:  # launch_train's pods need them, too
        task.set_env_variable("TZREC_IMAGE_PULL_SECRETS", ",".join(PULL_SECRETS))
    kubernetes.use_field_path_as_env(task, env_name="KFP_POD_NAME", field_path="metadata.name")
    for variable, key in secrets.MLFLOW_CONFIG_MAP.items():
        kubernetes.use_config_map_as_env(
            task, settings.mlflow_config_map, {key: variable}, optional=True
        )
    for secret, variables in (
        (settings.mlflow_secret, secrets.MLFLOW_SECRET),
        (settings.object_store_secret, secrets.OBJECT_STORE_SECRET),
    ):
        for variable, key in variables.items():
            kubernetes.use_secret_as_env(task, secret, {key: variable}, optional=True)


def _set_resources(task: dsl.PipelineTask, settings: Settings) -> None:
    if task.name == "launch-train":  # its work is on other pods
        task.set_cpu_request("100m").set_cpu_limit("1")
        task.set_memory_request("256M").set_memory_limit("1G")
        return
    task.set_cpu_request(settings.cpu_request).set_cpu_limit(settings.cpu_limit)
    task.set_memory_request(settings.memory_request).set_memory_limit(settings.memory_limit)
    used = [settings.cpu_request, settings.cpu_limit]
    used += [settings.memory_request, settings.memory_limit]
    if task.name in _ON_ACCELERATORS:
        task.set_accelerator_type(settings.accelerator_type)
        task.set_accelerator_limit(settings.accelerator_count)
        used += [settings.accelerator_type, settings.accelerator_count]
    # kfp 2.17 else does not hand them to tasks within a condition or a loop.
    task.register_pipeline_channels(used)
