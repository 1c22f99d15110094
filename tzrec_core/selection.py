"""Which of the checkpoints that there are a config asks for."""

import math
from collections.abc import Sequence

from tzrec_core import eval_result
from tzrec_core.eval_result import EvalResult
from tzrec_core.protos.export_pb2 import ExportConfig


def choose(
    export_config: ExportConfig, results: Sequence[EvalResult], steps: Sequence[int]
) -> tuple[EvalResult, str]:
    """Returns the result of the checkpoint to export, and the reason in a few words.

    Args:
        export_config: Says how to choose: the newest, or the best by a metric.
        results: Of any checkpoints.
        steps: Checkpoints that there are; others' results do not count.

    Raises:
        ValueError: There is no result to choose from, or none has the metric.
    """
    having = [result for result in results if result.step in steps]
    if not having:
        raise ValueError(f"none of the checkpoints {list(steps)} has an evaluation result")
    if export_config.exporter_type == "latest":
        return having[-1], f"the latest of {len(having)} checkpoints"
    metric = export_config.best_exporter_metric
    larger = export_config.metric_larger_is_better
    best = eval_result.best(having, metric, larger_is_better=larger)
    extreme = "largest" if larger else "smallest"
    return best, f"the {extreme} {metric} of {len(having)} checkpoints"


def never_to_delete(
    export_config: ExportConfig, results: Sequence[EvalResult], steps: Sequence[int]
) -> set[int]:
    """Returns the step of the checkpoint that would be exported as the best, if one would be.

    As long as the metric has no value for any of ``steps``, none is better than another.
    """
    metric = export_config.best_exporter_metric
    judged = [r for r in results if not math.isnan(r.metrics.get(metric, math.nan))]
    if export_config.exporter_type != "best" or not {r.step for r in judged} & set(steps):
        return set()
    chosen, _ = choose(export_config, judged, steps)
    return {chosen.step}
