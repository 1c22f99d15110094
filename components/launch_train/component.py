"""What KFP sees of launch_train."""

from kfp import dsl

from components import secrets
from components import volume as volumes
from components.container import run_step
from components.images import LAUNCHER_IMAGE


@dsl.container_component
def launch_train(
    run_dir: str,
    launcher: str,
    dataset: dsl.Input[dsl.Dataset],
    checkpoints: dsl.Output[dsl.Model],
    checkpoint_step: dsl.OutputPath(int),  # type: ignore[valid-type]
    pipeline_run_id: str = "",
    num_workers: int = 1,
    num_processes: int = 1,
    image: str = "",
    volume: str = volumes.CLAIM,
    mlflow_secret: str = secrets.MLFLOW_NAME,
    object_store_secret: str = secrets.OBJECT_STORE_NAME,
    worker_json: str = "",
) -> dsl.ContainerSpec:
    """Trains the model in several pods of a cluster, as a PyTorchJob or a TrainJob."""
    return run_step("launch_train", image=LAUNCHER_IMAGE)
