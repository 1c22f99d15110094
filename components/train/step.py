"""Trains the model on this machine, under torchrun or in one process."""

from typing import Any, TypedDict

from components import child, prepared
from components.steps import StepFailedError
from components.train import command
from components.train.tracked import tracked
from tzrec_core.run_dir import RunDir


class Outputs(TypedDict):
    """What KFP gets."""

    checkpoints: dict[str, Any]
    checkpoint_step: int


def train(*, run_dir: str, num_processes: int = 1) -> Outputs:
    """Trains on the prepared rows; goes on from the newest checkpoint, and a finished run is found.

    Args:
        run_dir: A folder that prepare_data has filled; gets ``checkpoints``.
        num_processes: Ranks on this machine.

    Raises:
        ValueError: The run directory is not prepared, or ``num_processes`` is not positive.
        StepFailedError: Training failed.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    place = RunDir(run_dir)
    prepared.load(place)
    with tracked(place, {"num_processes": num_processes}) as run:
        ended = child.run(
            command.here(place, num_processes=num_processes),
            env={} if run.run_id is None else {"MLFLOW_RUN_ID": run.run_id},
        )
        if ended.code != 0:
            raise StepFailedError(f"training failed: {child.error_of(ended.lines)}")
    steps = place.checkpoint_steps()
    assert steps, "training ended well without a checkpoint"
    checkpoints = {"path": str(place.checkpoints), "step": steps[-1]}
    return {"checkpoints": checkpoints, "checkpoint_step": steps[-1]}
