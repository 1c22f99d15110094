"""Two models on the same evaluation rows: by how much their metrics differ."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.evaluation.results import SEED, slices_of
from tzrec_core.evaluation.statistics import Columns, bootstrap_key, statistics_of
from tzrec_core.features.schema import id_column, slice_column
from tzrec_core.metrics.bootstrap import Difference, paired_difference
from tzrec_core.metrics.group_statistics import GroupStatistics
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import JudgedMetric, judged_metrics


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the same rows; what has no value is NaN.

    Attributes:
        metric: Its name.
        column: What the slice is made by; None for all rows.
        slice: Which slice of it; None for all rows.
        share: The part of all rows that it is.
        candidate: The value of one model.
        baseline: The value of the other.
        difference: Candidate minus baseline, with its interval.
        of_distance: Likewise of the distances to 1, for a metric that should be 1; None otherwise.
    """

    metric: str
    column: str | None
    slice: str | None
    share: float
    candidate: float
    baseline: float
    difference: Difference
    of_distance: Difference | None = None


def compare(
    config: EasyRecConfig,
    candidate: Predictions,
    baseline: Predictions,
    *,
    metrics: Sequence[str] | None = None,
    with_slices: bool = True,
) -> list[Comparison]:
    """Returns the metrics that are sums over groups, of all rows, then of each slice.

    Args:
        config: Its metrics and ``eval_config`` count.
        candidate: Rows that one model has scored.
        baseline: The same rows, scored by another.
        metrics: Names of metrics; None: all.
        with_slices: Also the slices of ``eval_config``.

    Raises:
        ValueError: The rows are not the same, or a metric cannot be computed.
    """
    check_same_rows(config, candidate, baseline)
    key, level = bootstrap_key(config), config.eval_config.confidence_level
    of_both = Columns(candidate), Columns(baseline)
    judged = [m for m in judged_metrics(config) if metrics is None or m.name in metrics]
    parts: list[tuple[str | None, str | None, torch.Tensor | None]] = [(None, None, None)]
    if with_slices:
        parts += [
            (part.column, part.name, torch.from_numpy(part.rows))
            for part in slices_of(config, candidate)
        ]
    found = []
    # The NaNs of small slices say what the warnings would.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for column, name, rows in parts:
            share = 1.0 if rows is None else len(rows) / len(candidate.table)
            for metric in judged:
                ours, theirs = (statistics_of(metric, c, key=key, rows=rows) for c in of_both)
                if ours is None or theirs is None:
                    continue
                difference = paired_difference(ours, theirs, level=level, seed=SEED)
                of_distance = None
                if metric.config.WhichOneof("metric") == "calibration":
                    distances = _distance_to_1(ours), _distance_to_1(theirs)
                    of_distance = paired_difference(*distances, level=level, seed=SEED)
                values = ours.value, theirs.value
                found.append(
                    Comparison(metric.name, column, name, share, *values, difference, of_distance)
                )
    return found


def _distance_to_1(statistics: GroupStatistics) -> GroupStatistics:
    return GroupStatistics(
        name=f"{statistics.name}'s distance to 1",
        sums=statistics.sums,
        formula=lambda sums: (statistics.formula(sums) - 1).abs(),
    )


def check_same_rows(config: EasyRecConfig, one: Predictions, other: Predictions) -> None:
    """Raises ValueError if two models have not scored the same rows."""
    if len(one.table) != len(other.table):
        raise ValueError(
            f"the models have scored different rows: {len(one.table)} and {len(other.table)}"
        )
    metrics: list[JudgedMetric] = judged_metrics(config)
    columns = {metric.label for metric in metrics}
    columns |= {id_column(metric.key) for metric in metrics if metric.key is not None}
    if (key := bootstrap_key(config)) is not None:
        columns.add(id_column(key))
    columns |= {slice_column(part.column) for part in config.eval_config.slices}
    for name in sorted(columns):
        if not one.is_of_the_same_rows_as(other, [name]):
            raise ValueError(f"the models have scored different rows: they differ in {name!r}")
