"""Configured metrics as sums over groups of rows, from which confidence intervals come."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.metrics.accuracy import binary_hits, top_k_hits
from tzrec_core.metrics.error import absolute_error, squared_error
from tzrec_core.metrics.group_statistics import (
    GroupStatistics,
    auc_statistics,
    calibration_statistics,
    group_mean_statistics,
    mean_statistics,
    normalized_entropy_statistics,
    xauc_statistics,
)
from tzrec_core.metrics.group_sums import GroupValues
from tzrec_core.metrics.grouped_auc import grouped_auc_values
from tzrec_core.metrics.grouped_xauc import grouped_xauc_values
from tzrec_core.metrics.log_loss import row_log_loss
from tzrec_core.metrics.ndcg import ndcg_values
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import JudgedMetric, judged_metrics


def bootstrap_key(config: EasyRecConfig) -> str | None:
    """Returns the key whose groups are drawn for metrics that have none; None: rows are drawn."""
    if config.eval_config.bootstrap_key:
        return str(config.eval_config.bootstrap_key)
    keys = (judged.key for judged in judged_metrics(config))
    return next((key for key in keys if key is not None), None)


class Columns:
    """The columns of predictions as tensors, each read once."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions
        self._known: dict[str, Tensor] = {}

    def number(self, name: str, rows: Tensor | None) -> Tensor:
        """Returns the values of a label or prediction in some rows; None: in all."""
        return self._of(name, self._predictions.tensor, rows)

    def ids(self, key: str, rows: Tensor | None) -> Tensor:
        """Returns the groups of a grouping key."""
        return self._of(f"{key}@", lambda _: self._predictions.ids(key), rows)

    def _of(self, name: str, read: Callable[[str], Tensor], rows: Tensor | None) -> Tensor:
        if name not in self._known:
            self._known[name] = read(name)
        return self._known[name] if rows is None else self._known[name][rows]


def groups_of(judged: JudgedMetric, columns: Columns, rows: Tensor | None = None) -> GroupValues:
    """Returns the values of a metric within groups, by group.

    Args:
        judged: A metric that groups rows.
        columns: Of the predictions.
        rows: [m] int64, the rows to judge; None: all.
    """
    assert judged.key is not None
    preds, target = columns.number(judged.output, rows), columns.number(judged.label, rows)
    keys = columns.ids(judged.key, rows)
    metric = judged.config
    match metric.WhichOneof("metric"):
        case "grouped_auc":
            weighting = metric.grouped_auc.weighting
            return grouped_auc_values(preds, target, keys, weighting=weighting)
        case "grouped_xauc":
            exclude = metric.grouped_xauc.exclude_tied_targets
            return grouped_xauc_values(preds, target, keys, exclude_tied_targets=exclude)
        case "ndcg_at_k":
            return ndcg_values(preds, target, keys, top_k=metric.ndcg_at_k.top_k)
        case kind:
            raise AssertionError(f"nothing computes {kind} by group")


def statistics_of(
    judged: JudgedMetric, columns: Columns, *, key: str | None, rows: Tensor | None = None
) -> GroupStatistics | None:
    """Returns a metric as sums over groups; None for a metric that has no such form.

    Sampled and binned metrics come in their exact form, which they estimate; those over batches,
    the expected calibration error and AUC of several classes have none.

    Args:
        judged: The metric.
        columns: Of the predictions.
        key: The groups to draw for a metric that has none of its own; None: rows.
        rows: [m] int64, the rows to judge; None: all.

    Raises:
        ValueError: NaN predictions, or targets that the metric does not take.
    """
    if judged.key is not None:
        return group_mean_statistics(judged.name, groups_of(judged, columns, rows))
    compute = _of_rows(judged)
    if compute is None:
        return None
    preds, target = columns.number(judged.output, rows), columns.number(judged.label, rows)
    return compute(preds, target, None if key is None else columns.ids(key, rows))


def _of_rows(
    judged: JudgedMetric,
) -> Callable[[Tensor, Tensor, Tensor | None], GroupStatistics] | None:
    metric, num_class = judged.config, judged.task.num_class
    mean = partial(_mean, judged.name)
    match metric.WhichOneof("metric"):
        case "auc":
            return auc_statistics
        case "xauc" if not metric.xauc.in_batch:
            return partial(xauc_statistics, exclude_tied_targets=metric.xauc.exclude_tied_targets)
        case "calibration":
            return calibration_statistics
        case "normalized_entropy":
            return partial(normalized_entropy_statistics, eta=metric.normalized_entropy.eta)
        case "log_loss":
            return mean(partial(row_log_loss, eta=metric.log_loss.eta), of_classes=True)
        case "mean_absolute_error":
            return mean(absolute_error)
        case "mean_squared_error":
            return mean(squared_error)
        case "accuracy" if num_class == 1:
            return mean(partial(binary_hits, threshold=metric.accuracy.threshold), of_classes=True)
        case "accuracy":
            return mean(partial(top_k_hits, top_k=metric.accuracy.top_k), of_classes=True)
        case "recall_at_k":
            return mean(partial(top_k_hits, top_k=metric.recall_at_k.top_k), of_classes=True)
        case _:
            return None


def _mean(
    name: str, of_row: Callable[[Tensor, Tensor], Tensor], *, of_classes: bool = False
) -> Callable[[Tensor, Tensor, Tensor | None], GroupStatistics]:
    """Returns what computes a mean over rows, of values of ``of_row(preds, target)``."""

    def compute(preds: Tensor, target: Tensor, keys: Tensor | None) -> GroupStatistics:
        # Classes that a file has as 0.0 and 1.0 have been checked when the rows were scored.
        return mean_statistics(name, of_row(preds, target.long() if of_classes else target), keys)

    return compute
