"""Chooses the checkpoint to export, and asks the gate whether to export it."""

import math
from typing import Any, TypedDict

from components import experiments, prepared, provenance
from components.select_best.champion import challenge
from components.select_best.roc import roc_points
from components.steps import Page
from tzrec_core.evaluation.choice import choose_by_evidence
from tzrec_core.evaluation.predictions import read_predictions
from tzrec_core.evaluation.statistics import bootstrap_key
from tzrec_core.report.build import HTML_FILE, SUMMARY_FILE, build
from tzrec_core.report.inputs import Scored, gather
from tzrec_core.run_dir import RunDir, identify, write_json
from tzrec_core.tasks import build_tasks

PASS, BLOCK = "pass", "block"
_MAX_ROC_POINTS = 200  # each is stored as properties of the artifact


class Outputs(TypedDict):
    """What KFP gets."""

    step: int
    checkpoint: str
    verdict: str
    metrics: dict[str, float]
    roc: dict[str, Any]
    report: Page
    summary: Page


def select_best(*, run_dir: str, registered_model: str = "") -> Outputs:
    """Chooses by the config's ``export_config`` and writes the choice to ``evaluation/best.json``.

    With a gate, the chosen checkpoint is compared with the champion of MLflow's registry on the
    evaluation rows; the verdict, its reasons and all numbers are in ``evaluation/gate.json``. The
    folder ``report`` gets a page about the chosen checkpoint.

    Args:
        run_dir: A folder whose checkpoints evaluate has evaluated.
        registered_model: The model's name in the registry; empty: the experiment's.

    Raises:
        ValueError: No checkpoint has an evaluation result, or none has the metric.
    """
    place = RunDir(run_dir)
    config, info = prepared.load(place), place.read_info()
    with experiments.track("select_best", place, info, config) as run:
        key = bootstrap_key(config)
        best, reason = choose_by_evidence(
            config,
            provenance.results(place),
            place.checkpoint_steps(),
            lambda step: read_predictions(place.predictions(step), key=key),
        )
        provenance.list_results(place)
        metrics = {name: value for name, value in best.metrics.items() if math.isfinite(value)}
        checkpoint = place.checkpoint(best.step)
        chosen = {"global_step": best.step, "identity": identify(checkpoint)}
        place.gate.unlink(missing_ok=True)  # a verdict on an older choice is none on this one
        named = {**chosen, "checkpoint": checkpoint.name, "reason": reason}
        write_json(place.best, {**named, "metrics": metrics})
        print(f"chose {checkpoint.name}: {reason}")
        name = registered_model or info.experiment
        judged, compared = challenge(place, config, run, step=best.step, name=name)
        verdict = PASS if judged.passes else BLOCK
        found = {"verdict": verdict, "reasons": judged.reasons, **compared}
        write_json(place.gate, {**chosen, **found})
        print(f"gate: {verdict}: {'; '.join(judged.reasons)}")
        run.rename(experiments.run_name("select_best", f"step {best.step}"))
        run.log_metrics(metrics, prefix="best")
        tags = {"gate.verdict": verdict, "gate.reasons": "; ".join(judged.reasons)}
        run.set_tags({"best.step": best.step, "best.reason": reason, **tags})
        for file in (place.eval_result, place.best, place.gate):
            run.log_artifact(file, "eval")
        inputs = gather(place)
        build(inputs, place.report, mlflow_link=experiments.mlflow_link(info))
        run.log_artifact(place.report, "report", on_parent=True)
        run.is_last = verdict == BLOCK  # nothing is exported
    return {
        "step": best.step,
        "checkpoint": str(checkpoint),
        "verdict": verdict,
        "metrics": metrics,
        "roc": _roc(inputs.chosen),
        "report": Page(place.report / HTML_FILE),
        "summary": Page(place.report / SUMMARY_FILE),
    }


def _roc(chosen: Scored) -> dict[str, Any]:
    """Returns the ROC curve of the first task that has a probability, for KFP; {} without one."""
    tasks = build_tasks(chosen.config)
    judged = [(task.probability, task.label) for task in tasks if task.probability]
    if not judged or chosen.predictions is None:
        return {}
    scores, labels = (chosen.predictions.tensor(name).numpy() for name in judged[0])
    points = roc_points(scores, labels, max_points=_MAX_ROC_POINTS)
    return {"confidenceMetrics": points} if points else {}
