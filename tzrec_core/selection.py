"""Which of the checkpoints that there are a config asks for."""

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
