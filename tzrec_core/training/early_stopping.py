"""Whether a metric of the evaluations still improves."""

import math
from collections.abc import Sequence

from tzrec_core.eval_result import EvalResult


def reason_to_stop(
    results: Sequence[EvalResult],
    *,
    metric: str,
    patience: int,
    min_delta: float,
    larger_is_better: bool,
) -> str | None:
    """Returns why a training should end after the last of ``results``, None if it should not.

    It should if the last ``patience`` results brought no improvement: a value that is better by
    more than ``min_delta`` than the last improvement was. The first value is one, NaN and a missing
    value never are.

    Args:
        results: In the order of their steps.
        metric: Name of a metric of the results.
        patience: At least 1.
        min_delta: 0 or more.
        larger_is_better: Whether a larger value of the metric is a better one.
    """
    sign = 1 if larger_is_better else -1
    best: EvalResult | None = None
    num_without = 0
    for result in results:
        value = result.metrics.get(metric, math.nan)
        if math.isnan(value):
            is_better = False
        else:
            is_better = best is None or sign * (value - best.metrics[metric]) > min_delta
        num_without = 0 if is_better else num_without + 1
        best = result if is_better else best
    if num_without < patience:
        return None
    if best is None:
        return f"{metric} had no value in {num_without} evaluations"
    changed = "risen" if larger_is_better else "fallen"
    by = f" by more than {min_delta:g}" if min_delta else ""
    return (
        f"{metric} has not {changed}{by} in {num_without} evaluations, since step {best.step} with "
        f"{best.metrics[metric]:.6g}"
    )
