"""What KFP sees of train."""

from kfp import dsl

from components.container import run_step


@dsl.container_component
def train(
    run_dir: str,
    num_processes: int,
    dataset: dsl.Input[dsl.Dataset],
    checkpoints: dsl.Output[dsl.Model],
    checkpoint_step: dsl.OutputPath(int),  # type: ignore[valid-type]
) -> dsl.ContainerSpec:
    """Trains the model on one machine; goes on from the newest checkpoint in run_dir."""
    return run_step("train")
