"""Which of a run's checkpoints its config asks for."""

from collections.abc import Sequence

from tzrec_core import eval_result
from tzrec_core.eval_result import EvalResult
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig


def choose(
    config: EasyRecConfig, results: Sequence[EvalResult], steps: Sequence[int]
) -> tuple[EvalResult, str]:
    """Returns the result of the checkpoint to export, and the reason in a few words.

    Args:
        config: Its ``export_config`` says how to choose: the newest, or the best by a metric.
        results: Of any checkpoints.
        steps: Checkpoints that there are; others' results do not count.

    Raises:
        ValueError: There is no result to choose from, or none has the metric.
    """
    having = [result for result in results if result.step in steps]
    if not having:
        raise ValueError(f"none of the checkpoints {list(steps)} has an evaluation result")
    export_config = config.export_config
    if export_config.exporter_type == "latest":
        return having[-1], f"the latest of {len(having)} checkpoints"
    metric = export_config.best_exporter_metric
    larger = export_config.metric_larger_is_better
    best = eval_result.best(having, metric, larger_is_better=larger)
    extreme = "largest" if larger else "smallest"
    return best, f"the {extreme} {metric} of {len(having)} checkpoints"
