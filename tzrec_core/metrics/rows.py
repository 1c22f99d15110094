"""Metrics that need every row at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.metrics.exchange import gather_rows


class RowMetric(Metric):
    """``formula(preds, target)`` of the rows of all ranks.

    Keeps predictions as float32, in which models compute them, and targets as float64.
    """

    higher_is_better = True
    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(sync_on_compute=False)
        self.formula = formula
        self.add_state("preds", [])
        self.add_state("target", [])

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(preds.float())
        self.target.append(target.double())

    def compute(self) -> Tensor:
        return self.formula(
            gather_rows(self.preds, dtype=torch.float32, device=self.device),
            gather_rows(self.target, dtype=torch.float64, device=self.device),
        )


class GroupedRowMetric(Metric):
    """``formula(preds, target, keys)`` of the rows of all ranks; a group may span ranks."""

    higher_is_better = True
    preds: list[Tensor]
    target: list[Tensor]
    keys: list[Tensor]

    def __init__(self, formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__(sync_on_compute=False)
        self.formula = formula
        self.add_state("preds", [])
        self.add_state("target", [])
        self.add_state("keys", [])

    def update(self, preds: Tensor, target: Tensor, keys: Tensor) -> None:
        self.preds.append(preds.float())
        self.target.append(target.double())
        self.keys.append(keys)

    def compute(self) -> Tensor:
        return self.formula(
            gather_rows(self.preds, dtype=torch.float32, device=self.device),
            gather_rows(self.target, dtype=torch.float64, device=self.device),
            gather_rows(self.keys, dtype=torch.int64, device=self.device),
        )
