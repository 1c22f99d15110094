"""Evaluates the checkpoints of a run."""

import math
import shutil
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow.dataset as ds

from components import experiments, prepared, provenance
from components.evaluate.roc import roc_points
from components.run_dir import RunDir
from tzrec_core.evaluator import evaluate_checkpoint
from tzrec_core.predictor import predict_checkpoint
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.selection import choose
from tzrec_core.tasks import build_tasks

_MAX_ROC_POINTS = 200  # each is stored as properties of the artifact


class Outputs(TypedDict):
    """What KFP gets."""

    evaluation: dict[str, Any]
    metrics: dict[str, float]
    roc: dict[str, Any]


def evaluate(*, run_dir: str) -> Outputs:
    """Evaluates every checkpoint that has no result in ``evaluation/eval_result.txt`` yet.

    A result counts for the very checkpoint that it was made of, not for a later one of the same
    step; ``evaluation/checkpoints.json`` says which that was.

    KFP's page gets the metrics and the ROC curve of the checkpoint that would be exported.

    Args:
        run_dir: A folder that train has filled.

    Raises:
        ValueError: There is no checkpoint, or one is unusable.
    """
    place = RunDir(run_dir)
    config = prepared.load(place)
    steps = place.checkpoint_steps()
    if not steps:
        raise ValueError(f"{place.checkpoints} has no checkpoint; run train on this run_dir first")
    with experiments.track("evaluate", place, place.read_info(), config) as run:
        done = {result.step for result in provenance.results(place)}
        for step in steps:
            if step not in done:
                _evaluate(config, place, step)
        results = provenance.results(place)
        best, _ = choose(config.export_config, results, steps)
        roc = _roc(config, place, best.step)
        run.rename(experiments.run_name("evaluate", experiments.counted(len(steps), "checkpoint")))
        for result in results:
            run.log_metrics(result.metrics, prefix="eval", step=result.step)
        run.log_artifact(place.eval_result, "eval")
    finite = {name: value for name, value in best.metrics.items() if math.isfinite(value)}
    return {
        "evaluation": {"path": str(place.eval_result), "checkpoints": len(results)},
        "metrics": {**finite, "global_step": best.step},
        "roc": {"confidenceMetrics": roc} if roc else {},
    }


def _evaluate(config: EasyRecConfig, place: RunDir, step: int) -> None:
    """Adds the result of a checkpoint, whose predictions, if there are any, are of an older one."""
    checkpoint = place.checkpoint(step)
    identity = provenance.identity(checkpoint)
    shutil.rmtree(_predictions(place, step), ignore_errors=True)
    evaluate_checkpoint(config, checkpoint_path=checkpoint, result_path=place.eval_result)
    provenance.record_evaluated(place, step, identity)  # last: until then all is done again


def _predictions(place: RunDir, step: int) -> Path:
    return place.evaluation / "predictions" / f"step-{step}"


def _roc(config: EasyRecConfig, place: RunDir, step: int) -> list[dict[str, float]]:
    """Returns the ROC curve of the first task that has a probability; none if no task has one."""
    judged = [(task.label, task.probability) for task in build_tasks(config) if task.probability]
    if not judged:
        return []
    label, output = judged[0]
    folder = _predictions(place, step)
    if not folder.exists():
        _predict(config, place.checkpoint(step), folder, label=label, output=output)
    scored = ds.dataset(folder).to_table(columns=[label, output])
    return roc_points(
        np.asarray(scored[output]), np.asarray(scored[label]), max_points=_MAX_ROC_POINTS
    )


def _predict(
    config: EasyRecConfig, checkpoint: Path, folder: Path, *, label: str, output: str
) -> None:
    """Writes the scores of the evaluation rows aside, then renames the folder."""
    aside = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(aside, ignore_errors=True)
    predict_checkpoint(
        config,
        checkpoint_path=checkpoint,
        input_path=config.eval_input_path,
        output_path=aside,
        reserved_columns=[label],
        output_columns=[output],
        num_steps=config.eval_config.num_steps or None,
    )
    aside.rename(folder)
