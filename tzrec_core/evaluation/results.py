"""What an evaluation finds, as JSON: metrics with intervals and coverage, of all rows and slices.

    {"global_step": 1000, "num_rows": 50000, "confidence_level": 0.95, "bootstrap_key": "user_id",
     "metrics": {"auc": {"value": 0.81, "low": 0.80, "high": 0.82},
                 "grouped_auc": {..., "group_coverage": 0.9, "row_coverage": 0.95}, ...},
     "slices": [{"column": "age", "slice": "20 to 30", "rows": 9000,
                 "metrics": {"auc": {"value": ..., "low": ..., "high": ...}, ...}}, ...]}

A number that does not exist is null: a metric of rows of one class, an interval of too few groups.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.evaluation.slices import Slice, cut
from tzrec_core.evaluation.statistics import (
    Columns,
    bootstrap_key,
    groups_of,
    statistics_of,
)
from tzrec_core.metrics.bootstrap import interval
from tzrec_core.metrics.group_statistics import GroupStatistics, group_mean_statistics
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import JudgedMetric, judged_metrics

log = logging.getLogger(__name__)

SEED = 0
_COVERAGES = ("group_coverage", "row_coverage")


def describe(
    config: EasyRecConfig, predictions: Predictions, metrics: Mapping[str, float], *, step: int
) -> dict[str, Any]:
    """Returns what this module's documentation shows.

    Args:
        config: Its metrics and ``eval_config`` count.
        predictions: Of the evaluation rows.
        metrics: The values that the evaluation of all rows has found, losses too.
        step: Of the checkpoint.
    """
    key, level = bootstrap_key(config), config.eval_config.confidence_level
    judged, columns = judged_metrics(config), Columns(predictions)
    of_all: dict[str, dict[str, float | None]] = {}
    with _logged_warnings():
        for metric in judged:
            statistics = statistics_of(metric, columns, key=key)
            value = metrics[metric.name]
            of_all[metric.name] = _with_interval(value, statistics, level)
    for name, value in metrics.items():
        metric_name, coverage = _split(name)
        if metric_name in of_all and coverage is not None:
            of_all[metric_name][coverage] = _number(value)
        elif name not in of_all:
            of_all[name] = _with_interval(value, None, level)
    return {
        "global_step": step,
        "num_rows": len(predictions.table),
        "share_of_rows": predictions.share,
        "confidence_level": level,
        "bootstrap_key": key,
        "metrics": of_all,
        "slices": [
            {
                "column": part.column,
                "slice": part.name,
                "rows": len(part.rows),
                "metrics": _of_slice(judged, columns, part, key=key, level=level),
            }
            for part in slices_of(config, predictions)
        ],
    }


def slices_of(config: EasyRecConfig, predictions: Predictions) -> list[Slice]:
    """Returns all slices that ``eval_config`` asks for.

    Raises:
        ValueError: Slices do not suit their column.
    """
    return [
        part
        for of_column in config.eval_config.slices
        for part in cut(
            of_column.column,
            predictions.slices(of_column.column),
            boundaries=of_column.boundaries,
            max_parts=of_column.max_parts,
        )
    ]


def _of_slice(
    judged: list[JudgedMetric], columns: Columns, part: Slice, *, key: str | None, level: float
) -> dict[str, dict[str, float | None]]:
    rows = torch.from_numpy(part.rows)
    found = {}
    # Small slices often have one class or too few groups; the nulls say so, each in its place.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric in judged:
            found[metric.name] = _judge(metric, columns, rows, key=key, level=level)
    return {name: values for name, values in found.items() if values is not None}


def _judge(
    metric: JudgedMetric, columns: Columns, rows: Tensor, *, key: str | None, level: float
) -> dict[str, float | None] | None:
    """Returns a metric of some rows; None if it cannot be computed from sums over groups."""
    if metric.key is not None:
        groups = groups_of(metric, columns, rows)
        sums = groups.add_up()
        values = _with_interval(sums.value, group_mean_statistics(metric.name, groups), level)
        coverages = {name: _number(getattr(sums, name)) for name in _COVERAGES}
        return {**values, **coverages}
    statistics = statistics_of(metric, columns, key=key, rows=rows)
    if statistics is None:
        return None
    return _with_interval(statistics.value, statistics, level)


def _with_interval(
    value: float, statistics: GroupStatistics | None, level: float
) -> dict[str, float | None]:
    if statistics is None:
        return {"value": _number(value), "low": None, "high": None}
    found = interval(statistics, level=level, seed=SEED)
    # The value may be a binned or sampled one, the interval is that of the exact one.
    low, high = min(found.low, value), max(found.high, value)
    return {"value": _number(value), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _split(name: str) -> tuple[str, str | None]:
    """Takes ``grouped_auc_row_coverage`` apart."""
    for coverage in _COVERAGES:
        if name.endswith(f"_{coverage}"):
            return name.removesuffix(f"_{coverage}"), coverage
    return name, None


@contextmanager
def _logged_warnings() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        log.warning("%s", message)
