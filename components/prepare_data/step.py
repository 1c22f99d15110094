"""Turns raw click logs into the rows that training and evaluation read."""

import dataclasses
from pathlib import Path
from typing import Any, TypedDict

from components import experiments
from components.run_dir import RunDir, RunInfo
from tzrec_core import config as configs
from tzrec_core import mlflow_run
from tzrec_core.data.prepare import prepare
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig


class Outputs(TypedDict):
    dataset: dict[str, Any]
    statistics: dict[str, float]


def prepare_data(
    *,
    pipeline_config: str,
    run_dir: str,
    train_input_path: str = "",
    eval_input_path: str = "",
    eval_fraction: float = 0.1,
    split_by: str = "rows",
    edit_config_json: str = "",
    seed: int = 0,
    experiment: str = mlflow_run.DEFAULT_EXPERIMENT,
    pipeline_run_id: str = "",
) -> Outputs:
    """Checks, splits, encodes and shuffles raw rows; rows prepared before are found.

    Args:
        pipeline_config: A config file.
        run_dir: The folder that all steps share; gets ``pipeline.config`` and ``data``.
        train_input_path: Raw training rows; empty: the config's.
        eval_input_path: Raw evaluation rows; empty: the config's, or a part of the training rows.
        eval_fraction: The part of the training rows to evaluate on, if there are no others.
        split_by: How to choose that part: rows, hash:<column> or time:<column>.
        edit_config_json: Changes to the config.
        seed: Of the split and the order of the rows.
        experiment: The experiment in MLflow.
        pipeline_run_id: What the steps of one pipeline run have in common; empty: the one that
            ``run_dir`` has, or a new one.

    Raises:
        ValueError: A mistake in the config, the rows or a parameter, or ``run_dir`` holds
            checkpoints that were trained with another config or on other rows.
    """
    place = RunDir(run_dir)
    config = effective_config(
        pipeline_config,
        train_input_path=train_input_path,
        eval_input_path=eval_input_path,
        edit_config_json=edit_config_json,
    )
    _refuse_another_config(place, config)
    info = RunInfo(pipeline_run_id or place.pipeline_run_id(), experiment, data="")
    with experiments.track("prepare_data", place, info, config) as run:
        info = dataclasses.replace(info, mlflow_page=run.page())
        data = prepare(
            config,
            train_input_path=config.train_input_path,
            eval_input_path=config.eval_input_path or None,
            output_dir=place.data,
            eval_fraction=eval_fraction,
            split_by=split_by,
            seed=seed,
        )
