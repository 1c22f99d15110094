"""Whether a model may take the champion's place: what it loses on the same evaluation rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tzrec_core.evaluation.comparison import Comparison
from tzrec_core.protos.export_pb2 import ExportConfig, Margin

# Of the other metrics and losses, larger values are better; calibration should be 1.
_SMALLER_IS_BETTER = (
    "calibration_error",
    "log_loss",
    "mean_absolute_error",
    "mean_squared_error",
    "normalized_entropy",
)


@dataclass(frozen=True)
class Verdict:
    """Whether the gate lets a model pass, and why, a sentence each."""

    passes: bool
    reasons: tuple[str, ...]


def judge(export_config: ExportConfig, comparisons: Sequence[Comparison]) -> Verdict:
    """Returns whether a model stays within all margins of ``export_config.gate``.

    Calibration, which should be 1, loses what it moves away from 1. What cannot be judged blocks: a
    metric without a value for one of the models, or without an interval where one is needed.

    Args:
        export_config: The margins.
        comparisons: Of the model with the champion.
    """
    problems: list[str] = []
    kept: list[str] = []
    for margin in export_config.gate:
        of_metric = [found for found in comparisons if found.metric == margin.metric]
        if not any(found.slice is None for found in of_metric):
            problems.append(f"{margin.metric} of the two models cannot be compared")
            continue
        for found in of_metric:
            if found.slice is None or _looks_at(margin, found):
                problem = _problem(margin, found)
                (kept if problem is None else problems).append(problem or _described(found))
    reasons = problems or kept
    if reasons and export_config.embedding_precision != "FP32":
        reasons.append(
            "the checkpoint is judged in FP32, before its embeddings become"
            f" {export_config.embedding_precision}"
        )
    return Verdict(not problems, tuple(reasons))


def is_better_when_larger(metric: str) -> bool:
    """Returns whether larger values of a metric, by its name in an evaluation, are better.

    It says nothing of calibration, which should be 1.
    """
    return not metric.startswith(_SMALLER_IS_BETTER)


def _looks_at(margin: Margin, found: Comparison) -> bool:
    return margin.HasField("min_slice_share") and found.share >= margin.min_slice_share


def _problem(margin: Margin, found: Comparison) -> str | None:
    """Returns what is wrong with one comparison; None if the model stays within the margin."""
    if found.of_distance is not None:
        sign, difference = -1, found.of_distance
    else:
        sign = 1 if is_better_when_larger(found.metric) else -1
        difference = found.difference
    gain = sign * difference.value
    if math.isnan(gain):
        return f"{_described(found)}: one of them has no value"
    if gain >= -margin.max_loss:
        return None
    if margin.only_if_significant:
        best_case = difference.high if sign == 1 else -difference.low
        if best_case >= -margin.max_loss:
            return None
        if math.isnan(best_case):
            return f"{_described(found)}: there are too few groups for an interval"
    return f"{_described(found)}: it may lose {margin.max_loss:g}"


def _described(found: Comparison) -> str:
    place = "" if found.slice is None else f" of {found.column} {found.slice}"
    difference, interval = found.of_distance or found.difference, ""
    of_what = "" if found.of_distance is None else " in distance to 1"
    if math.isfinite(difference.low):
        interval = f" ({difference.low:+.5f} to {difference.high:+.5f})"
    return (
        f"{found.metric}{place} is {found.candidate:.5f}, the champion's {found.baseline:.5f},"
        f" {difference.value:+.5f}{of_what}{interval}"
    )
