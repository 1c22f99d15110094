"""Metrics that follow from sums over rows: fixed memory, the same on any number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.metrics.validity import refuse_nan, refuse_not_class, warn_if_nan


@dataclass(frozen=True)
class SumFormula:
    """A metric as a function of sums over rows.

    Attributes:
        size: Number of sums.
        add_up: Takes [B] or [B, C] predictions and [B] targets, returns their [size] float64 sums,
            in which counts are exact to 2^53. Bad rows are counted, not looked at, so that nothing
            has to wait for the device.
        value: Takes the sums of all rows, returns the 0-d float64 metric. Raises ValueError if
            there were bad rows; without a value it returns NaN and warns.
    """

    size: int
    add_up: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], Tensor]


class StreamingMetric(Metric):
    """A ``SumFormula`` of all rows of all ranks."""

    sums: Tensor

    def __init__(self, formula: SumFormula) -> None:
        super().__init__()
        self.formula = formula
        sums = torch.zeros(formula.size, dtype=torch.float64)
        self.add_state("sums", sums, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.sums += self.formula.add_up(preds, target)

    def compute(self) -> Tensor:
        return self.formula.value(self.sums)


def mean_over_rows(
    name: str, row_value: Callable[[Tensor, Tensor], Tensor], *, num_labels: int | None = None
) -> SumFormula:
    """Returns the formula of the mean of ``row_value(preds, target)``; NaN without rows.

    Args:
        name: What messages call the metric.
        row_value: Returns [B] float64, NaN where a prediction or target is NaN.
        num_labels: Targets must be integers from 0 up to below this, and are passed on as int64;
            None allows any target.
    """

    def add_up(preds: Tensor, target: Tensor) -> Tensor:
        num_wrong = torch.zeros((), device=preds.device)
        if num_labels is not None:
            target, num_wrong = checked_labels(target, num_labels)
        values = row_value(preds, target)
        num_rows = values.new_full((), len(values))
        return torch.stack([values.sum(), num_rows, values.isnan().sum(), num_wrong])

    def value(sums: Tensor) -> Tensor:
        total, num_rows, num_nan, num_wrong = sums
        refuse_nan(name, num_nan)
        refuse_not_class(name, num_wrong, num_labels or 0)
        return warn_if_nan(name, total / num_rows, "there are no rows")

    return SumFormula(4, add_up, value)


def checked_labels(target: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Returns [B] int64 labels from 0 up to below ``num_labels``, and how many were none.

    The latter become 0, so that what is computed of them before they are refused is harmless.
    """
    labels = target.long()
    is_label = (target >= 0) & (target < num_labels) & (target == labels)
    return labels.masked_fill(~is_label, 0), (~is_label).sum()
