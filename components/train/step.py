"""Trains the model under torchrun, or in one process."""

import json
import sys
from collections.abc import Mapping
from typing import Any, TypedDict

from components import child, experiments, lineage, prepared
from components.steps import StepFailedError
from tzrec_core import config as configs
from tzrec_core.run_dir import RunDir

_SAVING_SECONDS = 300
"""What torchrun lets its processes have when it is stopped; Kubernetes' own limit comes before."""


class Outputs(TypedDict):
    """What KFP gets."""

    checkpoints: dict[str, Any]


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
    info = place.read_info()
    config = prepared.load(place)
    with experiments.track("train", place, info, config) as run:
        model, budget = experiments.model_kind(config), experiments.budget(config)
        run.rename(experiments.run_name("train", model, budget))
        run.log_params(experiments.headline_params(config))
        run.set_tags({"num_processes": num_processes, "run_dir": place.path})
        run.set_tags(lineage.origin_tags(place.config))
        data = place.prepared_data()
        lineage.log_data(run, {"train": (data / "train", data.name)})
        run.log_artifact(place.config, "config")
        ended = child.run(
            command(
                place,
                num_processes=num_processes,
                edits=prepared.edits(configs.load(place.config)),
            ),
            env={} if run.run_id is None else {"MLFLOW_RUN_ID": run.run_id},
        )
        if ended.code != 0:
            raise StepFailedError(f"training failed: {child.error_of(ended.lines)}")
        if place.train_eval_result.exists():
            run.log_artifact(place.train_eval_result, "eval")
    steps = place.checkpoint_steps()
    assert steps, "training ended well without a checkpoint"
    return {"checkpoints": {"path": str(place.checkpoints), "step": steps[-1]}}


def command(run_dir: RunDir, *, num_processes: int, edits: Mapping[str, object]) -> list[str]:
    """Returns the command that trains; one process needs no port and no torchrun."""
    launcher = [
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={num_processes}",
        f"--shutdown_timeout={_SAVING_SECONDS}",
        "-m",
    ]
    data = run_dir.prepared_data()
    return [
        sys.executable,
        "-u",
        "-m",
        *(launcher if num_processes > 1 else []),
        "tzrec_core.train_eval",
        f"--pipeline_config_path={run_dir.config}",
        f"--train_input_path={data / 'train'}",
        f"--eval_input_path={data / 'eval'}",
        f"--model_dir={run_dir.checkpoints}",
        f"--edit_config_json={json.dumps(edits)}",
        "--continue_train",
    ]
