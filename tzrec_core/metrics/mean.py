"""Weighted mean over all rows of all ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric


class WeightedMean(Metric):
    """sum(weight * value) / sum(weight); NaN without weight. For losses."""

    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        # A tensor each: a new metric's states are the defaults themselves, not copies of them.
        for state in ("total", "weight"):
            self.add_state(state, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor, weight: Tensor) -> None:
        """Takes [B] values and [B] weights."""
        self.total += (values * weight).sum(dtype=torch.float64)
        self.weight += weight.sum(dtype=torch.float64)

    def compute(self) -> Tensor:
        return self.total / self.weight
