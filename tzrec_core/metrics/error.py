"""Mean error of predicted values."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.metrics.validity import refuse_nan


def absolute_error(preds: Tensor, target: Tensor) -> Tensor:
    """Returns |pred - target|, row by row, [B] float64."""
    return (preds.double() - target.double()).abs()


def squared_error(preds: Tensor, target: Tensor) -> Tensor:
    """Returns (pred - target)^2, row by row, [B] float64."""
    return (preds.double() - target.double()).square()


class MeanError(Metric):
    """Mean of ``error(preds, target)`` over all rows of all ranks; NaN without rows."""

    higher_is_better = False
    total: Tensor
    num_rows: Tensor
    num_nan: Tensor

    def __init__(self, error: Callable[[Tensor, Tensor], Tensor], *, name: str) -> None:
        super().__init__()
        self.error = error
        self.name = name
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_rows", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_nan", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        errors = self.error(preds, target)
        self.total += errors.sum()
        self.num_rows += len(errors)
        self.num_nan += errors.isnan().sum()

    def compute(self) -> Tensor:
        refuse_nan(self.name, self.num_nan)
        return self.total / self.num_rows
