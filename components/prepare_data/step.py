"""Turns raw click logs into the rows that training and evaluation read."""

import dataclasses
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from components import experiments, lineage
from components.volume import RUNS_VARIABLE
from tzrec_core import config as configs
from tzrec_core import mlflow_run
from tzrec_core.assembly import check_model
from tzrec_core.data.prepare import STATS_FILE, prepare
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.run_dir import RunDir, RunInfo, new_run_id

log = logging.getLogger(__name__)


class Outputs(TypedDict):
    """What KFP gets."""

    resolved_run_dir: str
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

    The evaluation and the export of an earlier training are deleted if ``run_dir`` gets another
    config or other rows and its checkpoints are gone.

    Args:
        pipeline_config: A config file.
        run_dir: The folder that all steps share; gets ``pipeline.config`` and ``data``. Empty: one
            named after the pipeline run in the folder that TZREC_RUNS names, as on a cluster.
        train_input_path: Raw training rows; empty: the config's.
        eval_input_path: Raw evaluation rows; empty: the config's, or a part of the training rows.
        eval_fraction: The part of the training rows to evaluate on, if there are no others.
        split_by: How to choose that part: rows, hash:<column> or time:<column>.
        edit_config_json: Changes to the config.
        seed: Of the split and the order of the rows.
        experiment: The experiment in MLflow.
        pipeline_run_id: What the steps of one pipeline run have in common; empty: the one that
            ``run_dir`` has, or a new one. With another config it is always a new one.

    Raises:
        ValueError: A mistake in the config, the rows or a parameter, or ``run_dir`` holds
            checkpoints, or the only copy of a registered model, that were made with another config
            or on other rows.
    """
    if not run_dir:
        pipeline_run_id = pipeline_run_id or new_run_id()
        run_dir = _new_run_dir(pipeline_run_id)
    place = RunDir(run_dir)
    config = _effective_config(
        pipeline_config,
        train_input_path=train_input_path,
        eval_input_path=eval_input_path,
        edit_config_json=edit_config_json,
    )
    is_another_config = place.config.exists() and configs.load(place.config) != config
    if is_another_config:
        _refuse_other_work(place, "another config")
    known = place.read_info() if place.has_info() else None
    run_id = pipeline_run_id or (known.pipeline_run_id if known else new_run_id())
    if is_another_config and known and run_id == known.pipeline_run_id:
        run_id = new_run_id()  # MLflow never changes the parameters of a run
    info = RunInfo(run_id, experiment, data=known.data if known else "")
    place.write_info(info)
    with experiments.track("prepare_data", place, info, config) as run:
        data = prepare(
            config,
            train_input_path=config.train_input_path,
            eval_input_path=config.eval_input_path or None,
            output_dir=place.data,
            eval_fraction=eval_fraction,
            split_by=split_by,
            seed=seed,
            progress=log.info,
        )
        relative = str(data.path.relative_to(place.path))
        is_other_data = info.data != relative
        if is_other_data:
            _refuse_other_work(place, f"other rows, those in {info.data}")
        if is_another_config or is_other_data:
            _delete_results(place)
        configs.save(config, place.config)
        place.write_info(dataclasses.replace(info, data=relative, mlflow_page=run.page()))
        statistics = _headline(data.stats)
        run.rename(experiments.run_name("prepare_data", f"{data.stats['train']['rows']} rows"))
        run.log_params(experiments.headline_params(config))
        run.log_metrics(statistics, prefix="data")
        origin = lineage.origin_tags(place.config)
        run.set_tags({**origin, "data.fingerprint": data.fingerprint, "run_dir": place.path})
        lineage.describe_experiment(run)
        lineage.log_data(
            run, {name: (data.path / name, data.fingerprint) for name in ("train", "eval")}
        )
        run.log_artifact(place.config, "config")
        run.log_artifact(data.path / STATS_FILE, "data")
    dataset = {"path": str(data.path), "fingerprint": data.fingerprint, **statistics}
    return {"resolved_run_dir": str(place.path), "dataset": dataset, "statistics": statistics}


def _new_run_dir(pipeline_run_id: str) -> str:
    """Returns where the run directory of a run is that has named none; empty if nobody says."""
    runs = os.environ.get(RUNS_VARIABLE, "")
    return str(Path(runs) / pipeline_run_id) if runs else ""


def _effective_config(
    pipeline_config: str, *, train_input_path: str, eval_input_path: str, edit_config_json: str
) -> EasyRecConfig:
    config = configs.load(pipeline_config)
    config.train_input_path = train_input_path or config.train_input_path
    config.eval_input_path = eval_input_path or config.eval_input_path
    if edit_config_json:
        configs.edit(config, configs.edits_from_json(edit_config_json))
    configs.check(config, required=["train_input_path"])
    check_model(config)
    return config


def _refuse_other_work(place: RunDir, difference: str) -> None:
    if place.checkpoint_steps():
        raise ValueError(
            f"{place.checkpoints} holds checkpoints that were trained with {difference}; "
            "choose another run_dir, or remove them"
        )
    place.check_export_may_go()


def _delete_results(place: RunDir) -> None:
    """Deletes what was made of checkpoints that are gone."""
    stale = [folder for folder in (place.evaluation, place.export, place.report) if folder.exists()]
    if not stale:
        return
    log.warning(
        "%s had another config or other rows before: deleting what is left of them, %s",
        place.path,
        " and ".join(folder.name for folder in stale),
    )
    for folder in stale:
        shutil.rmtree(folder)


def _headline(stats: Mapping[str, Any]) -> dict[str, float]:
    """Returns the few numbers that describe the training rows and the evaluation rows.

    Rows, the mean of each label, and the largest share that values outside the range or vocabulary
    have in any feature.
    """
    numbers: dict[str, float] = {}
    for share in ("train", "eval"):
        numbers[f"{share}_rows"] = stats[share]["rows"]
        for label, mean in stats[share]["label_means"].items():
            numbers[f"{share}_mean_{label}"] = mean
        numbers[f"{share}_max_out_of_vocabulary_share"] = max(
            (
                column["out_of_vocabulary_share"]
                for column in stats[share]["columns"].values()
                if "out_of_vocabulary_share" in column
            ),
            default=0.0,
        )
    return numbers
