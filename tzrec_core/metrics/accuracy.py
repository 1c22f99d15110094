"""Share of rows that are classified right."""

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.metrics.validity import refuse_nan


class BinaryAccuracy(Metric):
    """Share of rows with (pred > threshold) == target over all ranks; NaN without rows."""

    higher_is_better = True
    num_right: Tensor
    num_rows: Tensor
    num_nan: Tensor

    def __init__(self, *, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        for name in ("num_right", "num_rows", "num_nan"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes [B] probabilities and [B] targets, 0 or 1."""
        self.num_right += ((preds > self.threshold) == target).sum()
        self.num_rows += len(preds)
        self.num_nan += preds.isnan().sum()

    def compute(self) -> Tensor:
        refuse_nan("accuracy", self.num_nan)
        return self.num_right.double() / self.num_rows


class MulticlassAccuracy(Metric):
    """Share of rows whose likeliest class is the target's over all ranks; NaN without rows."""

    higher_is_better = True
    num_right: Tensor
    num_rows: Tensor
    num_nan: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("num_right", "num_rows", "num_nan"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes [B, num_class] probabilities and [B] classes; of tied classes the first counts."""
        self.num_right += (preds.argmax(dim=1) == target).sum()
        self.num_rows += len(preds)
        self.num_nan += preds.isnan().any(dim=1).sum()

    def compute(self) -> Tensor:
        refuse_nan("accuracy", self.num_nan)
        return self.num_right.double() / self.num_rows
