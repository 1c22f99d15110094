"""Evaluates the checkpoints of a run."""

import json
import math
import shutil
import sys
from typing import Any, TypedDict

from components import child, experiments, lineage, prepared, provenance
from components.evaluate.roc import roc_points
from components.steps import StepFailedError
from tzrec_core import config as configs
from tzrec_core import eval_result
from tzrec_core.evaluation.evaluator import evaluate_checkpoint
from tzrec_core.evaluation.predictions import read_predictions
from tzrec_core.evaluation.results import describe
from tzrec_core.evaluation.statistics import bootstrap_key
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.run_dir import RunDir, write_json
from tzrec_core.selection import choose
from tzrec_core.tasks import build_tasks

_MAX_ROC_POINTS = 200  # each is stored as properties of the artifact


class Outputs(TypedDict):
    """What KFP gets."""

    evaluation: dict[str, Any]
    metrics: dict[str, float]
    roc: dict[str, Any]


def evaluate(*, run_dir: str, num_processes: int = 1, num_checkpoints: int = 0) -> Outputs:
    """Evaluates every checkpoint that has no result in ``evaluation/eval_result.txt`` yet.

    A result counts for the very checkpoint that it was made of, not for a later one of the same
    step; ``evaluation/checkpoints.json`` says which that was. The scored rows stay in
    ``evaluation/predictions``; ``evaluation/step-<step>.json`` has metrics with confidence
    intervals, of all rows and of slices.

    KFP's page gets the metrics and the ROC curve of the checkpoint with the best value.

    Args:
        run_dir: A folder that train has filled.
        num_processes: Ranks on this machine that share the rows.
        num_checkpoints: Evaluate only so many of the newest checkpoints; 0: all.

    Raises:
        ValueError: There is no checkpoint, one is unusable, or a number is negative.
        StepFailedError: The ranks failed.
    """
    if num_processes < 1:
        raise ValueError(f"num_processes must be at least 1, got {num_processes}")
    if num_checkpoints < 0:
        raise ValueError(f"num_checkpoints must be at least 0, got {num_checkpoints}")
    place = RunDir(run_dir)
    config = prepared.load(place)
    steps = place.checkpoint_steps()
    if not steps:
        raise ValueError(f"{place.checkpoints} has no checkpoint; run train on this run_dir first")
    with experiments.track("evaluate", place, place.read_info(), config) as run:
        done = {result.step for result in provenance.results(place)}
        for step in steps[-num_checkpoints:]:
            if step not in done or not place.predictions(step).exists():
                _evaluate(config, place, step, num_processes=num_processes)
        results = provenance.results(place)
        best, _ = choose(config.export_config, results, steps)
        roc = _roc(config, place, best.step)
        number = experiments.counted(len(results), "checkpoint")
        run.rename(experiments.run_name("evaluate", number))
        for result in results:
            run.log_metrics(result.metrics, prefix="eval", step=result.step)
            run.log_artifact(place.result(result.step), "eval")
        run.log_artifact(place.eval_result, "eval")
        fingerprint = place.prepared_data().name
        lineage.log_data(run, {"eval": (place.prepared_data() / "eval", fingerprint)})
        lineage.log_checkpoints(run, place, results, fingerprint)
    finite = {name: value for name, value in best.metrics.items() if math.isfinite(value)}
    return {
        "evaluation": {"path": str(place.eval_result), "checkpoints": len(results)},
        "metrics": {**finite, "global_step": best.step},
        "roc": {"confidenceMetrics": roc} if roc else {},
    }


def _evaluate(config: EasyRecConfig, place: RunDir, step: int, *, num_processes: int) -> None:
    """Adds the result of a checkpoint, whose predictions, if there are any, are of an older one."""
    checkpoint = place.checkpoint(step)
    identity = provenance.identity(checkpoint)
    shutil.rmtree(place.predictions(step), ignore_errors=True)
    if num_processes == 1:
        evaluate_checkpoint(
            config,
            checkpoint_path=checkpoint,
            result_path=place.eval_result,
            predictions_path=place.predictions(step),
        )
    else:
        ended = child.run(_command(place, step, num_processes=num_processes), env={})
        if ended.code != 0:
            raise StepFailedError(f"evaluation failed: {child.error_of(ended.lines)}")
    metrics = {result.step: result.metrics for result in eval_result.read(place.eval_result)}[step]
    predictions = read_predictions(place.predictions(step), key=bootstrap_key(config))
    write_json(place.result(step), describe(config, predictions, metrics, step=step))
    provenance.record_evaluated(place, step, identity)  # last: until then all is done again


def _command(place: RunDir, step: int, *, num_processes: int) -> list[str]:
    """Returns the command that scores with several ranks."""
    edits = {**prepared.edits(configs.load(place.config)), "model_dir": str(place.checkpoints)}
    return [
        *(sys.executable, "-u", "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc_per_node={num_processes}", "-m", "tzrec_core.eval"),
        f"--pipeline_config_path={place.config}",
        f"--eval_input_path={place.prepared_data() / 'eval'}",
        f"--edit_config_json={json.dumps(edits)}",
        f"--checkpoint_path={place.checkpoint(step)}",
        f"--eval_result_filename={place.eval_result}",
        f"--predictions_path={place.predictions(step)}",
    ]


def _roc(config: EasyRecConfig, place: RunDir, step: int) -> list[dict[str, float]]:
    """Returns the ROC curve of the first task that has a probability; none if no task has one."""
    judged = [(task.label, task.probability) for task in build_tasks(config) if task.probability]
    if not judged:
        return []
    label, output = judged[0]
    scored = read_predictions(place.predictions(step), key=bootstrap_key(config))
    return roc_points(
        scored.tensor(output).numpy(), scored.tensor(label).numpy(), max_points=_MAX_ROC_POINTS
    )
