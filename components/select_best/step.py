"""Chooses the checkpoint to export, and asks the gate whether to export it."""

import math
from typing import TypedDict

from components import experiments, prepared, provenance
from components.select_best.champion import challenge
from components.steps import Page
from tzrec_core.evaluation.choice import choose_by_evidence
from tzrec_core.evaluation.predictions import read_predictions
from tzrec_core.evaluation.statistics import bootstrap_key
from tzrec_core.report.build import HTML_FILE, SUMMARY_FILE, build
from tzrec_core.report.inputs import gather
from tzrec_core.run_dir import RunDir, write_json

PASS, BLOCK = "pass", "block"


class Outputs(TypedDict):
    """What KFP gets."""

    step: int
    checkpoint: str
    verdict: str
    metrics: dict[str, float]
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
        metrics = {name: value for name, value in best.metrics.items() if math.isfinite(value)}
        checkpoint = place.checkpoint(best.step)
        chosen = {"global_step": best.step, "checkpoint": checkpoint.name, "reason": reason}
        write_json(place.best, {**chosen, "metrics": metrics})
        print(f"chose {checkpoint.name}: {reason}")
        name = registered_model or info.experiment
        judged, compared = challenge(place, config, run, step=best.step, name=name)
        verdict = PASS if judged.passes else BLOCK
        write_json(place.gate, {"verdict": verdict, "reasons": judged.reasons, **compared})
        print(f"gate: {verdict}: {'; '.join(judged.reasons)}")
        run.rename(experiments.run_name("select_best", f"step {best.step}"))
        run.log_metrics(metrics, prefix="best", step=best.step)
        tags = {"gate.verdict": verdict, "gate.reasons": "; ".join(judged.reasons)}
        run.set_tags({"best.step": best.step, "best.reason": reason, **tags})
        run.log_artifact(place.best, "eval")
        run.log_artifact(place.gate, "eval")
        build(gather(place), place.report, mlflow_link=experiments.mlflow_link(info))
        run.log_artifact(place.report, "report")
        run.is_last = verdict == BLOCK  # nothing is exported
    return {
        "step": best.step,
        "checkpoint": str(checkpoint),
        "verdict": verdict,
        "metrics": metrics,
        "report": Page(place.report / HTML_FILE),
        "summary": Page(place.report / SUMMARY_FILE),
    }
