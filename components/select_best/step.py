"""Chooses the checkpoint to export."""

import math
from typing import TypedDict

from components import experiments, prepared, provenance
from components.run_dir import RunDir, write_json
from tzrec_core.selection import choose


class Outputs(TypedDict):
    """What KFP gets."""

    step: int
    checkpoint: str
    metrics: dict[str, float]


def select_best(*, run_dir: str) -> Outputs:
    """Chooses by the config's ``export_config`` and writes the choice to ``evaluation/best.json``.

    Args:
        run_dir: A folder whose checkpoints evaluate has evaluated.

    Raises:
        ValueError: No checkpoint has an evaluation result, or none has the metric.
    """
    place = RunDir(run_dir)
    config = prepared.load(place)
    with experiments.track("select_best", place, place.read_info(), config) as run:
        results = provenance.results(place)
        best, reason = choose(config.export_config, results, place.checkpoint_steps())
        metrics = {name: value for name, value in best.metrics.items() if math.isfinite(value)}
        checkpoint = place.checkpoint(best.step)
        chosen = {"global_step": best.step, "checkpoint": checkpoint.name, "reason": reason}
        write_json(place.best, {**chosen, "metrics": metrics})
        print(f"chose {checkpoint.name}: {reason}")
        run.rename(experiments.run_name("select_best", f"step {best.step}"))
        run.log_metrics(metrics, prefix="best", step=best.step)
        run.set_tags({"best.step": best.step, "best.reason": reason})
        run.log_artifact(place.best, "eval")
    return {"step": best.step, "checkpoint": str(checkpoint), "metrics": metrics}
