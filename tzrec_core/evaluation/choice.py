"""Which checkpoint to export, as far as the evaluation rows can tell checkpoints apart."""

import math
from collections.abc import Callable, Sequence

from tzrec_core import eval_result
from tzrec_core.eval_result import EvalResult
from tzrec_core.evaluation.comparison import compare
from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.metrics.bootstrap import Difference
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.selection import choose


def choose_by_evidence(
    config: EasyRecConfig,
    results: Sequence[EvalResult],
    steps: Sequence[int],
    read: Callable[[int], Predictions],
) -> tuple[EvalResult, str]:
    """Returns the result of the checkpoint to export, and the reason in a few words.

    The checkpoint with the best value of ``best_exporter_metric`` is the best one of these rows,
    not surely of others. Those that a paired bootstrap does not find significantly worse are near
    ties, among which ``near_ties`` decides: the earliest, which has come as far with fewer steps,
    or the best by ``tie_break_metric``. A checkpoint without an interval is no near tie.

    Args:
        config: ``export_config`` says how to choose, ``eval_config`` with which confidence.
        results: Of any checkpoints.
        steps: Checkpoints that there are; others' results do not count.
        read: Returns the predictions of the checkpoint of a step.

    Raises:
        ValueError: There is no result to choose from, or none has the metric.
    """
    export_config = config.export_config
    best, reason = choose(export_config, results, steps)
    others = [result for result in results if result.step in steps and result.step != best.step]
    if export_config.exporter_type != "best" or export_config.near_ties == "best" or not others:
        return best, reason
    name = export_config.best_exporter_metric
    scored = read(best.step)
    near_ties, num_untold = [best], 0
    for result in others:
        found = compare(config, read(result.step), scored, metrics=[name], with_slices=False)
        if not found:
            return best, f"{reason}; there are no confidence intervals of {name}"
        larger = export_config.metric_larger_is_better
        if is_near_tie(found[0].difference, larger_is_better=larger):
            near_ties.append(result)
        elif math.isnan(found[0].difference.low):
            num_untold += 1
    confidence = f"{config.eval_config.confidence_level:.0%} confidence"
    num_worse = len(others) + 1 - len(near_ties) - num_untold
    if num_untold:
        reason += f" ({num_untold} of which without an interval of the difference)"
    if len(near_ties) == 1:
        told = f", {num_worse} others are" if num_untold else ", all others are"
        return best, f"{reason}{told} worse at {confidence}" if num_worse else reason
    if export_config.near_ties == "earliest":
        chosen, rule = min(near_ties, key=lambda result: result.step), "the earliest"
    else:
        metric, larger = export_config.tie_break_metric, export_config.tie_break_larger_is_better
        chosen = eval_result.best(near_ties, metric, larger_is_better=larger)
        rule = f"the {'largest' if larger else 'smallest'} {metric}"
    if chosen == best:
        return best, f"{reason}, and {rule} of {len(near_ties)} that do not differ at {confidence}"
    return chosen, (
        f"{rule} of {len(near_ties)} checkpoints that do not differ at {confidence} from step"
        f" {best.step}, {reason}"
    )


def is_near_tie(difference: Difference, *, larger_is_better: bool) -> bool:
    """Returns whether a candidate's metric minus the best one's may as well be 0 or a gain."""
    best_case = difference.high if larger_is_better else -difference.low
    return difference.value == 0 or best_case >= 0
